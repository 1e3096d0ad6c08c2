"""One file of observations as it arrives: CF NetCDF with values, positions, errors and a time, all of it checked.

    dimensions  obs = P
    value(obs)  measured, in the unit of the operator: K for `scaled`, 1 for `arctan`, m s-1 for `identity`
    error(obs)  standard deviation of its error, in the same unit
    z(obs), y(obs), x(obs)  position in m: z is 0 or H, y and x from 0 up to L
    time        of the observations, in s since the model's start (TIME_UNITS)
    :operator   what was measured, one of UNITS

Everything else in a file is left alone. A file comes from outside: whatever is wrong with it is a `FileError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import netCDF4
import numpy as np

from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf
from jaxda.output.atomic import replacing
from jaxda.output.conventions import AXES, TIME_UNITS
from jaxda.output.netcdf import FileError
from jaxda.shown import in_brief

#: operator -> unit of its values
UNITS = {"scaled": "K", "arctan": "1", "identity": "m s-1"}
VARIABLES = ("value", "error", "z", "y", "x", "time")
#: how far a height may be from a boundary, in parts of their distance
LEVEL_TOLERANCE = 1e-6


class Observations(NamedTuple):
    """Observations of one time [s since the model's start].

    values, errors: `(P,)` in the unit of the operator; positions: `(P, 3)`, boundary, y and x in grid indices.
    """

    time: float
    values: np.ndarray
    errors: np.ndarray
    positions: np.ndarray

    __repr__ = in_brief


def write(path: str | Path, config: SQGConfig, operator: str, observations: Observations) -> None:
    """Write a file, which is there whole or not at all.

    Args:
        config: the model, for its grid.
        operator: one of UNITS.

    Raises:
        FileError: the file exists or cannot be written.
    """
    if Path(path).exists():
        raise FileError(f"{path}: exists already; give another name or remove it")
    time, values, errors, positions = observations
    z, y, x = (np.asarray(positions) * [config.H, config.L / config.N, config.L / config.N]).T
    columns = {"value": values, "error": errors, "z": z, "y": y, "x": x}
    about = {"title": "Observations of surface quasi-geostrophic turbulence", "operator": operator}
    with replacing(path) as hidden, netcdf.new_file(hidden, "NETCDF4", None, about) as nc:
        nc.createDimension("obs", len(values))
        for name, column in columns.items():
            # a checksum, so that a byte that changed on the way is found
            variable = nc.createVariable(name, column.dtype, ("obs",), compression="zlib", complevel=1, fletcher32=True)
            variable.setncatts(_about(name, UNITS[operator]))
            variable[:] = column
        scalar = nc.createVariable("time", np.float64, ())
        scalar.setncatts({key: text for key, text in AXES["t"].items() if key != "axis"})
        scalar[...] = time


def _about(name: str, unit: str) -> dict[str, str]:
    """Attributes of a variable of the observations."""
    if name in AXES:  # where an observation is, no axis
        return {key: text for key, text in AXES[name].items() if key != "axis"}
    names = {"value": "measured value", "error": "standard deviation of the error of the value"}
    return {"long_name": names[name], "units": unit, "coordinates": "time z y x"}


def read(path: str | Path, config: SQGConfig, operator: str, most: int) -> Observations:
    """The observations of a file, in double precision.

    Args:
        config: the model, for its domain and grid.
        operator: what has to have been measured, one of UNITS.
        most: observations that there can be; a file with more is refused before they are read.

    Raises:
        FileError: not NetCDF, cut off, of another operator, a variable that is missing, of another unit or shape,
            values that are missing or not finite, errors that are not positive, positions outside of the domain.
    """
    try:
        return _read(path, config, operator, most)
    except FileError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        # types and attributes that nobody thought of: a run that lasts for weeks must not end by a file
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise FileError(f"{path}: cannot be read as observations ({reason}); make it again") from None


def _read(path: str | Path, config: SQGConfig, operator: str, most: int) -> Observations:
    with netcdf.opened(path) as nc:
        missing = [name for name in VARIABLES if name not in nc.variables]
        if missing:
            raise FileError(f"{path}: variable {missing[0]} is missing; a file has {', '.join(VARIABLES)}")
        found = str(getattr(nc, "operator", "missing"))
        if found != operator:
            raise FileError(f'{path}: operator is "{found}", not "{operator}"; send it to a run of that operator')
        size = nc.dimensions["obs"].size if "obs" in nc.dimensions else 0
        if not 1 <= size <= most:
            raise FileError(f"{path}: obs = {size}, the network has {most} sites; give 1 to {most} observations")
        unit = UNITS[operator]
        units = {"value": unit, "error": unit, "z": "m", "y": "m", "x": "m"}
        columns = {name: _values(nc[name], path, ("obs",), unit) for name, unit in units.items()}
        time = float(_values(nc["time"], path, (), TIME_UNITS))
    errors = columns["error"]
    _require(errors > 0, path, "error", errors, unit, "not positive; give the standard deviation of the error")
    for name in ("y", "x"):
        inside = (columns[name] >= 0) & (columns[name] < config.L)
        domain = f"outside of the domain, 0 <= {name} < {config.L:g} m; correct it, or leave it out"
        _require(inside, path, name, columns[name], "m", domain)
    level = columns["z"] / config.H
    on_boundary = np.abs(level - np.rint(level)) <= LEVEL_TOLERANCE
    on_boundary &= np.isin(np.rint(level), (0, 1))
    domain = f"outside of the domain, whose boundaries are at 0 and {config.H:g} m; correct it, or leave it out"
    _require(on_boundary, path, "z", columns["z"], "m", domain)
    index = config.N / config.L
    positions = np.stack([np.rint(level), index * columns["y"], index * columns["x"]], axis=1)
    return Observations(time, columns["value"], errors, positions)


def _values(variable: netCDF4.Variable, path, dimensions: tuple[str, ...], unit: str) -> np.ndarray:
    """The values of a variable, checked."""
    name = variable.name
    if variable.dimensions != dimensions:
        raise FileError(f"{path}: {name} has dimensions {variable.dimensions}; use {dimensions}")
    found = str(getattr(variable, "units", "missing"))
    if found != unit:
        raise FileError(f'{path}: units of {name} are "{found}"; give it in "{unit}"')
    if not np.issubdtype(variable.dtype, np.number):
        raise FileError(f"{path}: {name} is of type {variable.dtype}; give numbers")
    values = np.ma.filled(np.ma.asarray(variable[...], np.float64), np.nan)
    _require(np.isfinite(values), path, name, values, unit, "missing or not finite; leave that observation out")
    return values


def _require(good: np.ndarray, path, name: str, values: np.ndarray, unit: str, wrong: str) -> None:
    """Raise FileError that names the first value that is not good."""
    if not np.all(good):
        at = int(np.argmin(good))
        where = f"{name}[{at}]" if values.ndim else name
        more = f", and {np.sum(~good) - 1} more," if np.sum(~good) > 1 else ""
        raise FileError(f"{path}: {where} = {values.flat[at]:g} {unit}{more} is {wrong}")
