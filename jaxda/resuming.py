"""How far a run of an experiment is: written while it goes, read where it was interrupted.

Each filter has a folder of checkpoints: the ensemble, what it is forecast with (a surrogate's weights; where it learns
its optimizer and its window of cycles too), and its records so far. Keys are made of the number of the cycle, so a run
that goes on gives the numbers of one that was never interrupted.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jaxda import config as configuration
from jaxda import twin
from jaxda.config import ExperimentConfig
from jaxda.experiment import Chunk, joined
from jaxda.output import report
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.settings import difference
from jaxda.training.online import Learned
from jaxda.twin import Coupled

#: of the folder of a run: its checkpoints
FOLDER = "checkpoints"


def require_same(config: ExperimentConfig, folder: Path) -> None:
    """Raise FileError unless the run in a folder has these settings."""
    wrong = difference(configuration.read(folder / "config.toml"), config)
    if wrong:
        raise FileError(f"{folder}: its run was made with another {wrong[0]}; give that again, or another --out")


class Progress:
    """How far one filter of a run is, kept in checkpoints after each chunk; a context manager.

    Attributes:
        mean: the last analysis mean `(*shape)`, None before there is one.
    """

    def __init__(self, config: ExperimentConfig, out: Path, name: str):
        self._learns, self._shape = config.filters[name].online, config.model.shape
        self._checkpoints = Checkpoints(out / FOLDER / name)
        self._chunks: list[Chunk] = []
        self.mean = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._checkpoints.close()

    def save(self, chunk: Chunk) -> None:
        """Keep a chunk and all before it, while the next one is computed."""
        if chunk.fields is not None:
            self.mean = np.asarray(chunk.fields.mean[-1])
        scores, learned = joined([*self._chunks, chunk])
        seconds = [c.seconds * (c.done - c.first) for c in (*self._chunks, chunk)]
        state = {"coupled": _values(chunk.coupled), "mean": self.mean, "scores": scores._asdict()}
        state |= {} if learned is None else {"learned": learned._asdict()}
        # the last is the best: one is kept
        self._checkpoints.save(chunk.done, state, {"seconds": sum(seconds) / chunk.done}, -chunk.done)
        self._chunks.append(chunk._replace(fields=None, coupled=None))

    def load(self, like: Coupled) -> Chunk | None:
        """All that was done before an interruption, on the devices of `like`, what a first cycle starts from."""
        done = self._checkpoints.last
        if done is None:
            return None
        kind = np.dtype(like.ensemble.dtype)
        # counts are no numbers where a run went wrong
        series = lambda fields: {name: np.zeros(done, float if name in report.COUNTS else kind) for name in fields}
        own = lambda a: a if isinstance(a, np.ndarray) else jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding)
        abstract = {"coupled": jax.tree.map(own, _values(like)), "mean": np.zeros(self._shape, kind)}
        abstract |= {"scores": series(twin.Scores._fields)} | (
            {"learned": series(Learned._fields)} if self._learns else {}
        )
        state = self._checkpoints.restore(done, abstract)
        host = lambda part: jax.tree.map(lambda like, a: np.asarray(a, like.dtype), abstract[part], state[part])
        self.mean = host("mean")
        placed = lambda like, a: a if isinstance(a, jax.Array) else jax.device_put(a, like.sharding)
        coupled = jax.tree.map(placed, like, Coupled.of(state["coupled"]))
        learned = Learned(**host("learned")) if self._learns else None
        seconds = self._checkpoints.meta(done)["seconds"]
        chunk = Chunk(0, twin.Scores(**host("scores")), None, learned, coupled, seconds)
        self._chunks = [chunk._replace(coupled=None)]
        return chunk


def _values(coupled: Coupled) -> dict:
    """`Coupled.parts`, what each of several processes has whole for itself as values: Orbax writes global arrays."""
    own = lambda a: np.asarray(a) if jax.process_count() > 1 and a.is_fully_addressable else a
    return jax.tree.map(own, coupled.parts)
