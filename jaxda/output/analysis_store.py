"""The analyses of twin experiments in Zarr: the variables of analysis.nc, in chunks by time and member.

For large ensembles: each chunk is a file, which has another name until it is whole, and is read by itself. A chunk
holds one time, so that what is written never touches what was written before it; only states of a few kB share one. A
run that goes on writes the cycles that it repeats in their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output import conventions
from jaxda.output.netcdf import FileError, dated

#: of the members in a chunk, and of the times of one of them, unpacked [bytes]
CHUNK, TIMES = 2**20, 2**14


def require_zarr() -> None:
    """Raise ValueError where the package is not installed."""
    try:
        import zarr  # noqa: F401
    except ImportError:
        wrong = 'output.format = "zarr": the package zarr is not installed'
        raise ValueError(f'{wrong}; pip install "jaxda[files]", or use "netcdf"') from None


@contextmanager
def _errors_of(path: Path, trouble: str, cure: str) -> Iterator[None]:
    """Turn what Zarr raises into one line."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
        raise FileError(f"{path}: {trouble} ({reason}); {cure}") from None


class AnalysisStore:
    """`analysis_file.AnalysisFile` in a folder of Zarr's format 3, with its arguments, names and methods.

    Raises:
        FileError: the folder exists, or cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        config: SQGConfig | Lorenz96Config,
        experiments: Sequence[str],
        hours: np.ndarray,
        *,
        members: int = 0,
        **attributes,
    ):
        import zarr

        self.path, self._names, self._shape = Path(path), list(experiments), config.shape
        self._stem = "pv" if isinstance(config, SQGConfig) else "state"
        if self.path.exists():
            raise FileError(f"{path}: exists already; give another name or remove it")
        coordinates = {"experiment": np.array(self._names, object), "t": 3600.0 * np.asarray(hours, np.float64)}
        coordinates |= {"member": np.arange(members)} if members else {}
        about = {"title": "Analyses of twin experiments", "history": dated("made by jaxda")} | attributes
        with _errors_of(self.path, "cannot be made", "give a folder that exists and may be written"):
            self.path.mkdir()
            self._group = zarr.create_group(str(path), attributes=conventions.global_attributes(config, about))
            self._fill(self._group, config, coordinates | conventions.space_of(config))

    def _fill(self, group, config: SQGConfig | Lorenz96Config, coordinates: dict[str, np.ndarray]) -> None:
        """Write coordinates and make the arrays of fields, which take no space yet."""
        sizes, space = {name: len(values) for name, values in coordinates.items()}, tuple(conventions.space_of(config))
        add = partial(self._add, group, sizes)
        for name, values in coordinates.items():
            kind, unwritten = (str, "") if values.dtype == object else (values.dtype, 0)
            add(name, kind, (name,), conventions.axes_of(config)[name], unwritten)[:] = values
        fields = {
            "truth": (("t",), "truth, with the shocks that experiments without them do not see"),
            "mean": (("experiment", "t"), "mean of the analysis ensemble"),
            "spread": (("experiment", "t"), "standard deviation of the analysis ensemble"),
            "members": (("experiment", "member", "t"), "members of the analysis ensemble"),
        }
        for name, (lead, long_name) in fields.items():
            if set(lead) <= set(sizes):
                about = conventions.units_of(config) | {"long_name": long_name}
                add(f"{self._stem}_{name}", np.float32, lead + space, about, np.nan)
        add("cycles", np.int32, ("experiment",), {"long_name": "number of analyses written", "units": "1"}, 0)

    def _add(self, group, sizes: dict[str, int], name: str, kind, axes: tuple[str, ...], about: dict, unwritten):
        """An array; chunks hold one experiment, and as many whole states as fit."""
        of_state = 4 * int(np.prod(self._shape))
        times = max(1, TIMES // of_state)
        largest = {"experiment": 1, "t": times, "member": max(1, CHUNK // (times * of_state))} if len(axes) > 1 else {}
        chunks = tuple(min(sizes[axis], largest.get(axis, sizes[axis])) for axis in axes)
        shape = tuple(sizes[axis] for axis in axes)
        about = {"attributes": about, "dimension_names": axes, "fill_value": unwritten}
        return group.create_array(name, shape=shape, chunks=chunks, dtype=kind, **about)

    def write(self, experiment: str, first_cycle: int, mean, spread, members=None) -> None:
        """Write T analyses from cycle `first_cycle` on; see `AnalysisFile.write`."""
        which, stop = self._names.index(experiment), first_cycle + len(mean)
        times = slice(first_cycle, stop)
        self._put("mean", (which, times), mean)
        self._put("spread", (which, times), spread)
        if members is not None:
            members = np.asarray(members)
            self._put("members", (which, slice(0, members.shape[1]), times), members.swapaxes(0, 1))
        with _errors_of(self.path, "cannot be written", "is the disk full?"):
            self._group["cycles"][which] = stop

    def write_truth(self, first_cycle: int, truth) -> None:
        """Write the truth `(T, *state)` from cycle `first_cycle` on."""
        self._put("truth", (slice(first_cycle, first_cycle + len(truth)),), truth)

    def _put(self, name: str, where: tuple, values) -> None:
        values = np.asarray(values)
        if values.shape[-len(self._shape) :] != self._shape:
            raise ValueError(f"{name} has shape {values.shape}; its states must be {self._shape}")
        with _errors_of(self.path, "cannot be written", "is the disk full?"):
            self._group[f"{self._stem}_{name}"][where] = values

    def __enter__(self) -> AnalysisStore:
        return self

    def __exit__(self, *_) -> None:
        """Nothing to do: every chunk is on the disk when it is written."""
