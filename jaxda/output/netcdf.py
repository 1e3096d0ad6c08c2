"""NetCDF files under the CF-1.11 conventions: nature runs in sqgturb's layout, and analyses.

A nature run is `pv(t, z, y, x)` with the model's parameters as global attributes under sqgturb's names,
so that either program reads the other's files.

Files are open only while a piece is written. A nature run grows for as long as it is wanted, and its writer may be
killed inside of a write: so it has the classic format (64-bit offsets), whose header stays as it is while records are
added behind it, where HDF5 writes over tables of its own. A record has a checksum, which is written last: one without
was cut off half-way, readers leave it out and a run that goes on writes it again; one with another is refused.
"""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import netCDF4
import numpy as np
from pydantic import ValidationError

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output import classic, conventions
from jaxda.output.conventions import SIZES
from jaxda.settings import one_line
from jaxda.shown import in_brief

#: What files may lack: sqgturb's older ones leave out that they are dealiased, and all of them the Jacobian.
OPTIONAL = {"dealias": True, "jacobian": "sqgturb"}
#: zlib packs no more into a byte (its deflate takes 258 equal ones for 2 bits, www.zlib.net/zlib_tech.html)
LARGEST_RATIO = 1032
#: of unpacked values beside that: those of a file that is not written yet are not in it [bytes]
SPARE = 2**26
#: variable of a nature run: a checksum of each record
SUMS = "checksum"
#: HDF5 is not safe for threads (two that open files at once crash the process), and a thread of its own reads batches
_LIBRARY = threading.RLock()


class FileError(ValueError):
    """A file that cannot be used: one line with its name, the thing, its value and the cure."""


class NatureRun(NamedTuple):
    """A nature run on disk: its parameters, times (T,) in s since the model's start, and the type of its states."""

    path: Path
    config: SQGConfig
    times: np.ndarray
    dtype: np.dtype

    __repr__ = in_brief


@contextmanager
def _errors_of(path: str | Path, trouble: str, cure: str) -> Iterator[None]:
    """Turn what netCDF4 raises into one line."""
    try:
        yield
    except (OSError, RuntimeError, AttributeError) as error:
        if isinstance(error, AttributeError) and not str(error).startswith("NetCDF"):  # a mistake in our own code
            raise
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise FileError(f"{path}: {trouble} ({reason}); {cure}") from None


# Reading


@contextmanager
def opened(path: str | Path) -> Iterator[netCDF4.Dataset]:
    """A file to read; raises FileError where there is none or it cannot be read."""
    if not Path(path).is_file():
        raise FileError(f"{path}: no such file; make a nature run with scripts/nature_run.py --out {path}")
    unreadable = _errors_of(path, "not a readable NetCDF file", "copy it again or make it again")
    with unreadable:
        try:
            classic.check(path)
        except ValueError as error:
            raise OSError(str(error)) from None
    unreadable = _errors_of(path, "not a readable NetCDF file", "copy it again or make it again")
    with _LIBRARY, unreadable, netCDF4.Dataset(path) as nc:
        yield nc


def values_of(variable: netCDF4.Variable, path: str | Path, where=...) -> np.ma.MaskedArray:
    """Some values of a variable; raises FileError where they are more than a file of its size can hold.

    A file's header may claim any size. What it claims is made in memory before anything is read.
    """
    shape = [variable.shape[axis] for axis in range(variable.ndim)]
    for axis, part in enumerate(where if isinstance(where, tuple) else () if where is ... else (where,)):
        if isinstance(part, slice):
            shape[axis] = len(range(*part.indices(shape[axis])))
        else:
            shape[axis] = np.size(part)
    wide = 8 if variable.dtype is str else variable.dtype.itemsize
    claimed, held = math.prod([wide, *map(int, shape)]), Path(path).stat().st_size
    if claimed > LARGEST_RATIO * held + SPARE:
        raise FileError(f"{path}: {variable.name} claims {claimed} bytes, the file has {held}; make it again")
    return np.ma.asarray(variable[where])


def _plain(value):
    """An attribute as a Python value; single precision as the decimal it was rounded from (1e-4, not 9.9999997e-05)."""
    return float(str(value)) if isinstance(value, np.float32) else getattr(value, "tolist", lambda: value)()


def config_of(nc: netCDF4.Dataset, path: str | Path) -> SQGConfig:
    """The model's settings in a file's attributes; raises FileError where one is missing or wrong."""
    names = [field.name for field in fields(SQGConfig) if field.name not in SIZES]
    present = {name: _plain(nc.getncattr(name)) for name in names if name in nc.ncattrs()}
    missing = [name for name in names if name not in present | OPTIONAL]
    if missing:
        raise FileError(f"{path}: attribute {missing[0]} is missing; add the model's parameter to the file")
    try:
        return SQGConfig(N=nc.dimensions["x"].size, **(OPTIONAL | present))
    except ValidationError as error:
        raise FileError(f"{path}: {one_line(error)}; correct the attribute") from None


def times_of(t: netCDF4.Variable, path: str | Path, least: int = 1) -> np.ndarray:
    """The times of complete states (T,) [s]; raises FileError for fewer than `least`, or where they do not increase."""
    if not str(getattr(t, "units", "seconds")).startswith("seconds"):
        raise FileError(f"{path}: t is in '{t.units}'; it must be in seconds since the start of the model")
    times = np.ma.filled(values_of(t, path).astype(np.float64), np.nan)
    times = times[: np.append(-1, np.flatnonzero(np.isfinite(times)))[-1] + 1]
    if len(times) < least:
        raise FileError(f"{path}: no complete state (t has {t.size} values); make it again")
    increasing = np.diff(times) > 0  # False beside a missing time too
    if not increasing.all():
        at = int(np.argmin(increasing))
        pair = f"t[{at + 1}] = {times[at + 1]:g} s follows {times[at]:g} s"
        raise FileError(f"{path}: {pair}, but times must increase; make the file again")
    return times


def sums_of(times: np.ndarray, states: np.ndarray) -> np.ndarray:
    """CRC-32 of each time [s] and its state, bytes of the smallest part first, as whole numbers `(T,)` of 32 bits."""
    states = np.asarray(states)
    own = zip(np.asarray(times, "<f8"), states.astype(states.dtype.newbyteorder("<"), copy=False), strict=True)
    sums = [zlib.crc32(state.tobytes(), zlib.crc32(time.tobytes())) for time, state in own]
    return np.array(sums, np.uint32).view(np.int32)


def _as_written(nc: netCDF4.Dataset, path: str | Path, times: np.ndarray, where) -> np.ndarray:
    """Which of the records `where` are what was written; all of them in a file without checksums."""
    if SUMS not in nc.variables:
        return np.ones(len(times[where]), bool)
    variable = nc[SUMS]
    variable.set_auto_mask(False)  # any number may be one
    return np.asarray(values_of(variable, path, where)) == sums_of(
        times[where], np.ma.getdata(values_of(nc["pv"], path, where))
    )


def complete_times(nc: netCDF4.Dataset, path: str | Path, least: int = 1) -> np.ndarray:
    """As `times_of`, without records of a nature run at the end that have no checksum yet."""
    times = times_of(nc["t"], path, least)
    if SUMS in nc.variables:
        here = ~np.ma.getmaskarray(values_of(nc[SUMS], path, slice(0, len(times))))
        times = times[: np.append(-1, np.flatnonzero(here))[-1] + 1]
    if len(times) < least:
        raise FileError(f"{path}: no complete state (t has {nc['t'].size} values); make it again")
    return times


def read_nature_run(path: str | Path) -> NatureRun:
    """Parameters and times of a nature run written here or by sqgturb; `read_states` reads its states.

    Raises:
        FileError: missing, not NetCDF, cut off, without what it needs, or with times that do not increase.
    """
    with opened(path) as nc:
        for name in ("pv", "t"):
            if name not in nc.variables:
                raise FileError(f"{path}: variable {name} is missing; a nature run has pv(t, z, y, x) and t(t)")
        pv = nc["pv"]
        if pv.dimensions != ("t", "z", "y", "x") or nc["t"].dimensions != ("t",):
            raise FileError(f"{path}: pv has dimensions {pv.dimensions}; use (t, z, y, x), and (t) for t")
        if pv.shape[1] != 2 or pv.shape[2] != pv.shape[3]:
            raise FileError(f"{path}: (z, y, x) = {pv.shape[1:]}; a state is (2, N, N), two boundaries of a square")
        return NatureRun(
            Path(path), config_of(nc, path), complete_times(nc, path), np.dtype(pv.dtype.newbyteorder("="))
        )


def read_states(run: NatureRun, start: int = 0, stop: int | None = None) -> np.ndarray:
    """States `start` to `stop` (default: all), `(T, 2, N, N)` in m/s and the file's precision.

    The file is open only meanwhile, so long files can be read piece by piece.

    Raises:
        FileError: the file cannot be read, or a value is missing or not finite.
    """
    return _read(run, np.arange(len(run.times))[start:stop], slice(*slice(start, stop).indices(len(run.times))))


def read_numbered(run: NatureRun, numbers: np.ndarray) -> np.ndarray:
    """States of increasing numbers `(n,)`, as `read_states`; only the records that hold them are read."""
    return _read(run, np.asarray(numbers), np.asarray(numbers))


def _read(run: NatureRun, numbers: np.ndarray, where) -> np.ndarray:
    with opened(run.path) as nc:
        states = np.ma.filled(values_of(nc["pv"], run.path, where), np.nan)
        good = _as_written(nc, run.path, run.times, where)
    bad = ~np.isfinite(states).all((1, 2, 3)) | ~good
    if bad.any():
        at = int(numbers[np.argmax(bad)])
        trouble = "has values missing or not finite" if good[np.argmax(bad)] else "is not what was written"
        day = f"day {run.times[at] / 86400:g}"
        raise FileError(f"{run.path}: pv[{at}], {day}, {trouble}; use only states before it")
    return states


def interval_hours(path: str | Path, times: np.ndarray) -> float:
    """Time between two states of times (T,) [s], in h; raises FileError where they are not evenly spaced."""
    hours = np.diff(times) / 3600.0
    if not len(hours) or not np.allclose(hours, hours[0]):
        raise FileError(f"{path}: its times are not evenly spaced; make one with scripts/nature_run.py")
    return float(hours[0])


def require_grid(run: NatureRun, config: SQGConfig) -> None:
    """Raise FileError unless the run's grid (N, L, H) is that of `config`."""
    for name in ("N", "L", "H"):
        found, wanted = getattr(run.config, name), getattr(config, name)
        if found != wanted:
            raise FileError(f"{run.path}: {name} = {found:g}, but {name} = {wanted:g} is asked for; change either")


# Writing


def dated(event: str) -> str:
    """A line for the attribute `history`."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {event}"


@contextmanager
def new_file(path: str | Path, kind: str, config, attributes: dict) -> Iterator[netCDF4.Dataset]:
    """A file with the settings of a model (None: of none) as attributes; FileError: it exists or cannot be made."""
    if Path(path).exists():
        raise FileError(f"{path}: exists already; give another name or remove it")
    with _LIBRARY, _errors_of(path, "cannot be made", "give a folder that exists and may be written"):
        nc = netCDF4.Dataset(path, "w", clobber=False, format=kind)
    with _LIBRARY, nc:
        about = {"history": dated("made by jaxda")} | attributes
        for name, value in conventions.global_attributes(config, about).items():
            nc.setncattr(name, value)
        yield nc


def _reserve(path: str | Path, n_bytes: int) -> None:
    """Take the disk space before the file is touched: HDF5 loses a file that a full disk or a quota stops half-way.

    HDF5 writes over the bytes added, and cuts off those that it did not need. The classic format loses no more than
    what was being added, but its library crashes at its end: there the space is taken to see whether it is there.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            classic_format = file.read(3) == b"CDF"
            end = file.seek(0, os.SEEK_END)
            try:
                os.posix_fallocate(file.fileno(), end, n_bytes)
            except OSError:
                file.truncate(end)
                raise
            if classic_format:
                file.truncate(end)


def write_parts(path: str | Path, *parts: tuple) -> None:
    """Put parts (variable, where, values) in their order, each flushed; the file is open only meanwhile."""
    trouble = _errors_of(path, "cannot be written", "is the disk full, or the file open in another program?")
    with _LIBRARY, trouble:
        _reserve(path, 2**16 + sum(8 * np.size(values) for _, _, values in parts))
        with netCDF4.Dataset(path, "r+") as nc:
            for name, where, values in parts:
                nc[name][where] = values
                nc.sync()


def add_history(path: str | Path, event: str) -> None:
    """Add a line to a file's attribute `history`; to a copy, since a header that grows moves all behind it."""
    trouble = _errors_of(path, "cannot be written", "is the disk full, or the file open in another program?")
    with _LIBRARY, trouble, netCDF4.Dataset(path, "r+") as nc:
        nc.history = "\n".join(filter(None, [getattr(nc, "history", ""), event]))


def add_coordinates(nc: netCDF4.Dataset, config: SQGConfig | Lorenz96Config, **others) -> tuple[str, ...]:
    """Write the coordinates of a state, and `others` (no values: unlimited), and return the state's names."""
    space = conventions.space_of(config)
    about = conventions.axes_of(config)
    for name, values in (others | space).items():
        nc.createDimension(name, len(values) or None)
        if values.dtype == object:
            _add_labels(nc, name, values, about[name])
            continue
        variable = nc.createVariable(name, values.dtype, (name,))
        variable.setncatts(about[name])
        variable[:] = values
    return tuple(space)


def _add_labels(nc: netCDF4.Dataset, name: str, texts: np.ndarray, about: dict) -> None:
    """Names as an array of characters, a label in CF's words (section 6.1): a coordinate variable has to be numbers.

    Readers join the characters, so that netCDF4 and xarray give an array of texts along the dimension.
    """
    rows = np.array([text.encode() for text in texts])
    nc.createDimension(f"{name}_length", rows.itemsize)
    variable = nc.createVariable(name, "S1", (name, f"{name}_length"))
    variable.setncatts(about | {"_Encoding": "utf-8"})
    variable.set_auto_chartostring(False)  # it counts letters, not bytes
    variable[:] = rows.view("S1").reshape(len(rows), -1)


def add_state(
    nc: netCDF4.Dataset, name: str, lead: tuple, space: tuple, config, dtype=np.float32, **attributes
) -> None:
    """A compressed variable of states (one a chunk), preceded by the dimensions `lead`; unwritten values are NaN."""
    sizes = tuple(nc.dimensions[d].size for d in space)
    options = {"compression": "zlib", "complevel": 1, "shuffle": True, "fill_value": np.nan}
    variable = nc.createVariable(name, dtype, lead + space, chunksizes=(1,) * len(lead) + sizes, **options)
    variable.setncatts(conventions.units_of(config) | attributes)


def create_nature_run(path: str | Path, config: SQGConfig, *, dtype=np.float32, **attributes) -> None:
    """Make a nature run file of `dtype` with `config` and further global `attributes` (text or numbers).

    Raises:
        FileError: the file exists or cannot be made.
    """
    about = {"title": "Nature run of surface quasi-geostrophic turbulence"}
    about["comment"] = "pv is in m/s; times f * theta0 / g it is the temperature's perturbation in K"
    with new_file(path, "NETCDF3_64BIT_OFFSET", config, about | attributes) as nc:
        space = add_coordinates(nc, config, t=np.zeros(0))
        add_state(nc, "pv", ("t",), space, config, dtype, long_name="potential vorticity on the boundaries")
        sums = nc.createVariable(SUMS, np.int32, ("t",))
        sums.setncatts({"long_name": "CRC-32 of t and pv, as little-endian bytes", "units": "1"})


def append_states(path: str | Path, times: np.ndarray, states: np.ndarray) -> None:
    """Write states after the last complete one of a nature run; the file is open only meanwhile.

    Args:
        path: a file of `create_nature_run`.
        times: `(T,)` in s since the model's start, increasing.
        states: `(T, 2, N, N)` in m/s.

    Raises:
        FileError: sizes that do not fit, times that do not increase, values not finite, a full disk.
    """
    times, states = np.asarray(times, np.float64), np.asarray(states)
    with opened(path) as nc:
        before, shape = complete_times(nc, path, least=0), (len(times), *nc["pv"].shape[1:])
        dtype, summed = nc["pv"].dtype.newbyteorder("="), SUMS in nc.variables
    last = before[-1] if len(before) else -np.inf
    if states.shape != shape:
        raise FileError(f"{path}: states have shape {states.shape}; give {shape}")
    if not (np.diff(times, prepend=last) > 0).all():
        raise FileError(f"{path}: times {times} s do not increase from {last:g} s; append later states")
    if not np.isfinite(states).all():
        raise FileError(f"{path}: states after {last:g} s are not finite; use a smaller time step")
    rows, states = slice(len(before), len(before) + len(times)), states.astype(dtype, copy=False)
    parts = [("pv", rows, states), ("t", rows, times)]
    write_parts(path, *parts, *([(SUMS, rows, sums_of(times, states))] if summed else []))
