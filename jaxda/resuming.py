"""How far a run of an experiment is: written while it goes, read where it was interrupted.

Each filter has a folder of checkpoints: the ensemble, what it is forecast with (a surrogate's weights; where it learns
its optimizer and its window of cycles too), and its records so far; and files of its analyses, one a chunk, which are
written before the checkpoint. Keys are made of the number of the cycle, so a run that goes on gives the numbers of one
that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from jaxda import config as configuration
from jaxda import twin
from jaxda.config import ExperimentConfig
from jaxda.diagnostics import SpreadSkill
from jaxda.experiment import Chunk, World, joined
from jaxda.output import checksums, diagnostics_file, record, report
from jaxda.output.analysis_file import AnalysisFile
from jaxda.output.analysis_store import AnalysisStore
from jaxda.output.atomic import replacing
from jaxda.output.checkpoint import Checkpoints, plain_values
from jaxda.output.diagnostics_file import DiagnosticsFile
from jaxda.output.field_parts import FieldParts
from jaxda.output.netcdf import FileError
from jaxda.parallel import launch
from jaxda.settings import difference
from jaxda.training.online import Learned
from jaxda.twin import Coupled

#: of the folder of a run: its checkpoints, and what its analyses become
FOLDER, DIAGNOSTICS = "checkpoints", diagnostics_file.NAME
#: output.format -> its file, and what writes that
ANALYSES = {"netcdf": ("analysis.nc", AnalysisFile), "zarr": ("analysis.zarr", AnalysisStore)}
#: files that a finished run has the checksums of
OUTPUTS = ("analysis.nc", DIAGNOSTICS, "config.toml", "online.csv", "record.json", "scores.csv", "scores.json")


def begun(folder: Path) -> bool:
    """Whether a folder holds a run to go on with."""
    return (folder / "config.toml").is_file() or (folder / FOLDER).is_dir()


def lasting(config: ExperimentConfig) -> ExperimentConfig:
    """The settings that a run keeps: how many members may fail is what one that ended so may go on with more of."""
    return dataclasses.replace(config, faults=dataclasses.replace(config.faults, replaced_limit=1.0))


def require_same(config: ExperimentConfig, folder: Path) -> None:
    """Raise FileError unless the run in a folder has these settings, and its analyses, if finished, are as written.

    Where config.toml is missing, the checkpoints tell.
    """
    if (folder / "config.toml").is_file():
        wrong = difference(lasting(configuration.read(folder / "config.toml")), lasting(config))
        if wrong:
            cure = "give that again, or another --out, or remove a damaged config.toml"
            raise FileError(f"{folder}: its run was made with another {wrong[0]}; {cure}")
    else:
        for path in sorted((folder / FOLDER).glob("*")):
            for meta in plain_values(path):
                record.require_settings(meta, lasting(config), path)
    for name in ("analysis.nc", DIAGNOSTICS) if (folder / checksums.NAME).is_file() else ():
        wrong = checksums.trouble(folder, [name]) if (folder / name).is_file() else None
        if wrong:
            raise FileError(f"{folder}: {wrong}; remove {name} and {checksums.NAME}, and --resume makes them again")


def analyses_of(config: ExperimentConfig, out: Path) -> tuple[Path, Callable]:
    """Where the analyses of a run are in the end, and what writes them."""
    name, make = ANALYSES[config.output.format]
    return out / name, make


def finish(config: ExperimentConfig, out: Path, hours: np.ndarray, world: World) -> None:
    """Join the files of the chunks to analysis.nc (or .zarr) and diagnostics.nc, and write checksums of what was made.

    Args:
        hours: times of the cycles `(T,)` [h].

    Raises:
        FileError: a chunk that is missing or is not what was written, a disk that is full.
    """
    parts, sizes = FieldParts(out), {name: config.members_of(name) for name in config.filters}
    path, make = analyses_of(config, out)
    if config.output.fields and not path.exists():
        members = max(sizes.values()) if config.output.members else 0
        with replacing(path) as hidden, make(hidden, config.model, list(sizes), hours, members=members) as file:
            file.write_truth(0, world.truth)
            for name in sizes:
                for first, fields in _chunks(config, parts, name):
                    file.write(name, first, fields.mean, fields.spread, fields.members)
    if not (out / DIAGNOSTICS).exists():
        with replacing(out / DIAGNOSTICS) as hidden, DiagnosticsFile(hidden, config.model, sizes, hours) as file:
            for name in sizes:
                seen = world.seen_by(config.filters[name])
                for first, fields in _chunks(config, parts, name):
                    file.write(name, first, fields, np.asarray(seen[first + len(fields.detail.ranks) - 1]))
    parts.remove()
    checksums.write(out, [name for name in OUTPUTS if (out / name).exists()])


def _chunks(config: ExperimentConfig, parts: FieldParts, name: str) -> Iterator[tuple[int, twin.Fields]]:
    """First cycle and fields of each chunk of an experiment that has any; raises FileError where one is missing."""
    done = 0
    for first, count, arrays in parts.read(name):
        done = first + count
        if arrays:
            yield first, _fields_of(arrays)
    if done != config.cycles:
        lost = f"analyses of {name} from cycle {done} on are missing"
        raise FileError(f"{parts.folder}: {lost}; --resume makes them again")


def _arrays_of(fields: twin.Fields, whole: bool) -> dict[str, np.ndarray]:
    """Those of a chunk by name; where not the `whole` is asked for, of mean and spread the last ones alone."""
    rows = slice(None) if whole else slice(-1, None)
    own = {"mean": fields.mean[rows], "spread": fields.spread[rows], "members": fields.members if whole else None}
    own |= {"ranks": fields.detail.ranks, "spectra": fields.detail.spectra}
    own |= {f"skill_{name}": values for name, values in fields.detail.skill._asdict().items()}
    return {name: np.asarray(values) for name, values in own.items() if values is not None}


def _fields_of(arrays: dict[str, np.ndarray]) -> twin.Fields:
    """What `_arrays_of` is of."""
    skill = SpreadSkill(*(arrays[f"skill_{name}"] for name in SpreadSkill._fields))
    detail = twin.Detail(arrays["ranks"], skill, arrays.get("spectra"))
    return twin.Fields(arrays["mean"], arrays["spread"], arrays.get("members"), detail)


class Progress:
    """How far one filter of a run is, kept in checkpoints after each chunk; a context manager."""

    def __init__(self, config: ExperimentConfig, out: Path, name: str):
        self._learns = config.filters[name].online
        self._config, self._name, self._parts, upto = config, name, None, None
        joined = (out / DIAGNOSTICS, *([analyses_of(config, out)[0]] if config.output.fields else []))
        if not all(path.exists() for path in joined):
            self._parts = FieldParts(out)
            done, trouble = self._parts.whole(name)
            if trouble:
                launch.say(f"{trouble}: goes back before cycle {done}", sys.stderr)
            upto = int(launch.from_first(np.asarray(done)))
        packed = config.forecast_of(name) in configuration.WITH_WEIGHTS
        self._checkpoints = Checkpoints(out / FOLDER / name, upto=upto, packed=packed)
        self._chunks: list[Chunk] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._checkpoints.close()

    def save(self, chunk: Chunk) -> None:
        """Keep a chunk and all before it, while the next one is computed; one that is not finite starts no other."""
        if self._parts and jax.process_index() == 0:
            fields = _arrays_of(chunk.fields, self._config.output.fields) if chunk.fields else {}
            self._parts.write(self._name, chunk.first, chunk.done - chunk.first, fields)
        if not chunk.finite:
            return
        scores, learned = joined([*self._chunks, chunk])
        seconds = [c.seconds * (c.done - c.first) for c in (*self._chunks, chunk)]
        state = {"coupled": _values(chunk.coupled), "scores": scores._asdict()}
        state |= {} if learned is None else {"learned": learned._asdict()}
        # the last is the best: one is kept
        meta = record.of_checkpoint(lasting(self._config)) | {"seconds": sum(seconds) / chunk.done}
        self._checkpoints.save(chunk.done, state, meta, -chunk.done)
        self._chunks.append(chunk._replace(fields=None, coupled=None))

    def load(self, like: Coupled) -> Chunk | None:
        """All that was done before an interruption, on the devices of `like`, what a first cycle starts from.

        Raises:
            FileError: a checkpoint of other settings, or which cannot be read.
        """
        done = self._checkpoints.last
        if done is None:
            return None
        meta = self._checkpoints.meta(done)
        place = self._checkpoints.folder / str(done)
        record.require_settings(meta, lasting(self._config), place)
        record.say_versions(meta, place)
        kind = np.dtype(like.ensemble.dtype)
        series = lambda fields: {name: np.zeros(done, int if name in report.COUNTS else kind) for name in fields}
        own = lambda a: a if isinstance(a, np.ndarray) else jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding)
        abstract = {"coupled": jax.tree.map(own, _values(like)), "scores": series(twin.Scores._fields)} | (
            {"learned": series(Learned._fields)} if self._learns else {}
        )
        state = self._checkpoints.restore(done, abstract)
        host = lambda part: jax.tree.map(lambda like, a: np.asarray(a, like.dtype), abstract[part], state[part])
        placed = lambda like, a: a if isinstance(a, jax.Array) else jax.device_put(a, like.sharding)
        coupled = jax.tree.map(placed, like, Coupled.of(state["coupled"]))
        learned = Learned(**host("learned")) if self._learns else None
        chunk = Chunk(0, twin.Scores(**host("scores")), None, learned, coupled, meta["seconds"])
        self._chunks = [chunk._replace(coupled=None)]
        return chunk


def _values(coupled: Coupled) -> dict:
    """`Coupled.parts`, what each of several processes has whole for itself as values: Orbax writes global arrays."""
    own = lambda a: np.asarray(a) if jax.process_count() > 1 and a.is_fully_addressable else a
    return jax.tree.map(own, coupled.parts)
