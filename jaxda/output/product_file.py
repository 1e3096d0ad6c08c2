"""What each cycle of a real-time run leaves: a NetCDF file of its analysis and forecast, and a row of a CSV file."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf
from jaxda.output.atomic import replacing
from jaxda.output.conventions import AXES
from jaxda.output.netcdf import FileError

FIELDS = {
    "analysis_mean": ("mean of the analysis ensemble", "t"),
    "analysis_spread": ("standard deviation of the analysis ensemble", "t"),
    "forecast_mean": ("mean of the forecast ensemble", "t_forecast"),
    "forecast_spread": ("standard deviation of the forecast ensemble", "t_forecast"),
}


def name_of(time: float) -> str:
    """The file's name of an analysis at `time` [s of the model]."""
    return f"analysis_{round(time):010d}.nc"


def write(
    path: str | Path,
    config: SQGConfig,
    time_analysis: float,
    time_forecast: float,
    fields: Mapping[str, np.ndarray],
    attributes: Mapping[str, float | int | str],
) -> float:
    """Write the product of a cycle in place of any before, whole or not at all; returns the seconds that it took [s].

    Args:
        config: of the model that forecasts.
        time_analysis, time_forecast: valid times [s of the model].
        fields: `pv_...` in m/s, `(2, N, N)` each, for every name in FIELDS.
        attributes: global ones; `seconds_writing` is added.

    Raises:
        FileError: it cannot be written.
    """
    began = time.perf_counter()
    about = {"title": "Analysis of a real-time run, and the forecast from it"} | dict(attributes)
    with replacing(path) as hidden, netcdf.new_file(hidden, "NETCDF4", config, about) as nc:
        space = netcdf.add_coordinates(nc, config)
        for name, value in (("t", time_analysis), ("t_forecast", time_forecast)):
            variable = nc.createVariable(name, np.float64, ())
            variable.setncatts({key: text for key, text in AXES["t"].items() if key != "axis"})
            variable[...] = value
        for name, (long_name, when) in FIELDS.items():
            netcdf.add_state(nc, f"pv_{name}", (), space, config, long_name=long_name, coordinates=when)
            nc[f"pv_{name}"][...] = np.asarray(fields[name])
        nc.setncattr("seconds_writing", time.perf_counter() - began)
    return time.perf_counter() - began


def read(path: str | Path, names: Sequence[str] = tuple(FIELDS)) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Times `t` and `t_forecast` [s] and fields `(2, N, N)` [m/s] of a product; FileError where it is none."""
    with netcdf.opened(path) as nc:
        missing = [name for name in ("t", "t_forecast", *(f"pv_{n}" for n in names)) if name not in nc.variables]
        if missing:
            raise FileError(f"{path}: variable {missing[0]} is missing; give a file of scripts/realtime.py")
        times = {name: float(netcdf.values_of(nc[name], path)) for name in ("t", "t_forecast")}
        return times, {name: np.ma.filled(netcdf.values_of(nc[f"pv_{name}"], path), np.nan) for name in names}


def append_row(path: str | Path, row: Mapping[str, object]) -> None:
    """Add a row to a CSV file, which gets the names as its head when it is made; numbers with six digits."""
    path = Path(path)
    end = _last_byte(path)
    new = not end
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if end not in (b"", b"\n"):  # of a run that was killed while it wrote a row
            file.write("\r\n")
        if new:
            writer.writerow(row)
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row.values())


def _last_byte(path: Path) -> bytes:
    if not path.exists() or path.stat().st_size == 0:
        return b""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()


def rows_before(path: str | Path, cycle: int) -> list[dict[str, str]]:
    """Rows of a CSV file whose `cycle` comes before one; the others, and a row cut off, are taken out of the file."""
    path = Path(path)
    if not path.exists():
        return []
    names, rows = _whole_rows(path)
    rows = [row for row in rows if row["cycle"].isdecimal() and int(row["cycle"]) < cycle]
    _write(path, names, rows)
    return rows


def drop_last(path: str | Path, undone: Callable[[list[dict[str, str]]], bool]) -> None:
    """Take the last row out of a CSV file, if `undone` says so of its whole rows; and a row cut off in any case."""
    path = Path(path)
    if not path.exists():
        return
    names, rows = _whole_rows(path)
    _write(path, names, rows[:-1] if rows and undone(rows) else rows)


def _whole_rows(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Names and rows of a CSV file, without those that were cut off; FileError where it is no text of columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values() and None not in row]
            if not rows or "cycle" in rows[0]:
                return reader.fieldnames or [], rows
            raise ValueError("has no column cycle")
    except (ValueError, csv.Error) as error:
        raise FileError(f"{path}: damaged ({error}); correct it, or move it away and it is begun again") from None


def _write(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with replacing(path) as hidden, hidden.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
