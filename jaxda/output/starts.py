"""States that forecasts start from: of a series in memory, of nature runs, of ensembles in files.

A file may hold `pv(t, z, y, x)` (a nature run), `pv(t, member, z, y, x)` or `pv(member, z, y, x)` (an ensemble), or be
the `analysis.nc` of a twin experiment: `pv_members` of one experiment where members were written, else `pv_mean`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import netCDF4
import numpy as np

from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf
from jaxda.output.netcdf import FileError
from jaxda.training.dataset import Series

#: start times when none are named and the states are no ensembles
STARTS = 8


class Source(NamedTuple):
    """Where starts are taken from.

    Attributes:
        name: for messages.
        hours: (T,) since the start of the model [h].
        read: numbers of times `(S,)` -> states `(S, M, 2, N, N)` in m/s; M = 1 where there is no ensemble.
        truth: the same for true states `(S, 2, N, N)`; None where there are none.
        part: numbers of the times to choose among.
        ensemble: whether the states are members.
    """

    name: str
    hours: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    truth: Callable[[np.ndarray], np.ndarray] | None
    part: range
    ensemble: bool


class Starts(NamedTuple):
    """States to start from.

    Attributes:
        states: `(S, M, 2, N, N)` in m/s: S start times, M members (1: no ensemble).
        hours: (S,) since the start of the model [h].
        later: number of the lead -> true states `(S, 1, 2, N, N)`; None: the model makes the truth.
    """

    states: np.ndarray
    hours: np.ndarray
    later: Callable[[int], np.ndarray] | None


def of_series(series: Series, part: range, name: str) -> Source:
    """Part of a series of states."""
    hours = series.interval_hours * np.arange(series.count)
    return Source(name, hours, lambda numbers: series.read(numbers)[:, None], series.read, part, False)


def split_place(text: str) -> tuple[Path, str | None]:
    """`FILE` or `FILE:NUMBERS` as the file and the numbers; a file that is called so is one."""
    found = re.fullmatch(r"(.+?):([-\d,:]+)", text)
    return (Path(text), None) if Path(text).exists() or not found else (Path(found[1]), found[2])


def of_file(path: str | Path, model: SQGConfig, experiment: str | None = None) -> Source:
    """The states of a file.

    Args:
        model: whose grid they must be on.
        experiment: of those in an analysis file.

    Raises:
        FileError: no such file, or one that cannot be used: other variables, another grid, no such experiment.
    """
    with netcdf.opened(path) as nc:
        names = [name for name in ("pv", "pv_members", "pv_mean") if name in nc.variables]
        if not names:
            raise FileError(
                f"{path}: has no pv, pv_members or pv_mean; give a nature run, an ensemble or an analysis.nc"
            )
        name, axes = names[0], nc[names[0]].dimensions
        leading = axes[:-3]
        if axes[-3:] != ("z", "y", "x") or leading not in (
            ("t",), ("member",), ("t", "member"), ("member", "t"),
            ("experiment", "t"), ("experiment", "t", "member"), ("experiment", "member", "t"),
        ):  # fmt: skip
            raise FileError(f"{path}: {name} has dimensions {axes}; use ([experiment,] [member,] t, z, y, x)")
        sizes = nc[name].shape[-3:]
        if sizes != model.shape:
            raise FileError(f"{path}: (z, y, x) = {sizes}, but the surrogate's states are {model.shape}; give another")
        netcdf.require_grid(
            netcdf.NatureRun(Path(path), netcdf.config_of(nc, path), np.zeros(0), nc[name].dtype), model
        )
        times = netcdf.times_of(nc["t"], path) if "t" in leading else np.zeros(1)
        row = _experiment(nc, path, experiment, leading)
        truth = ("pv" if leading == ("t",) else None) if name == "pv" else "pv_truth"
        truth = truth if truth in nc.variables else None
    members = "member" in leading
    before, outside = () if row is None else (row,), leading[-2:] == ("member", "t")
    at = lambda numbers: () if leading == ("member",) else (np.asarray(numbers),)

    def read(numbers):
        states = _values(path, name, (*before, *([slice(None)] if outside else []), *at(numbers)))
        states = states.swapaxes(0, 1) if outside else states
        states = states if "t" in leading else states[None]
        if members:  # a smaller ensemble than the largest of the file ends in missing values
            states = states[:, ~np.isnan(states).all((0, 2, 3, 4))]
        states = states if members else states[:, None]
        good = np.isfinite(states).all((1, 2, 3, 4))
        if not good.all() or not states.size:
            number = numbers[int(np.argmin(good))]
            raise FileError(f"{path}: {name}[{number}] has values missing or not finite; give other times")
        return states

    own = None if truth is None else lambda numbers: _true(path, truth, numbers)
    return Source(str(path), times / 3600.0, read, own, range(len(times)), members)


def _experiment(nc: netCDF4.Dataset, path, name: str | None, leading: tuple) -> int | None:
    if "experiment" not in leading:
        if name is not None:
            raise FileError(f"{path}: experiment = {name}: the file has none; leave it out")
        return None
    there = list(map(str, netcdf.values_of(nc["experiment"], path)))
    if name is None and len(there) == 1:
        return 0
    if name not in there:
        raise FileError(f"{path}: experiment = {name or 'not given'}; give one of {', '.join(there)}")
    return there.index(name)


def _values(path, name: str, where: tuple) -> np.ndarray:
    with netcdf.opened(path) as nc:
        return np.ma.filled(netcdf.values_of(nc[name], path, where or ...).astype(np.float32), np.nan)


def _true(path, name: str, numbers: np.ndarray) -> np.ndarray:
    states = _values(path, name, (np.asarray(numbers),))
    if not np.isfinite(states).all():
        raise FileError(f"{path}: {name} has values missing or not finite; use --truth sqg or other starts")
    return states


def choose(
    source: Source,
    numbers: str | None = None,
    *,
    count: int | None = None,
    members: int | None = None,
    leads: int = 0,
    lead_hours: float = 1.0,
    own_truth: bool = False,
) -> Starts:
    """States to start from, in order of time.

    Args:
        numbers: of the times, such as `"3,-1"` or `"0:100:10"`; None spreads them over the source.
        count: how many to spread; None: STARTS, or the last one of ensembles.
        members: of an ensemble to keep; None: all.
        leads: length of the forecasts, which end within the source where the truth is its own.
        lead_hours: of one lead [h].
        own_truth: whether the truth is the source's later states.

    Raises:
        ValueError: numbers out of range, a source without truth, too short or unevenly spaced, too few members.
    """
    stride = _stride(source, lead_hours) if own_truth else 0
    reach = leads * stride
    if numbers is None:
        last = min(source.part.stop, len(source.hours) - reach) - 1
        if last < source.part.start:
            there = f"{len(source.hours)} states, from {source.part.start} on to start from"
            raise ValueError(f"{source.name}: has {there}, too few for {leads} leads; use fewer steps or the truth sqg")
        size = count or (1 if source.ensemble else STARTS)
        first = last if size == 1 else source.part.start
        chosen = np.unique(np.rint(np.linspace(first, last, size)).astype(int))
    else:
        chosen = _numbers(numbers, len(source.hours), source.name)
        if chosen[-1] + reach >= len(source.hours):
            most = (len(source.hours) - 1 - chosen[-1]) // stride
            raise ValueError(
                f"{source.name}: has {most} leads after state {chosen[-1]}, {leads} asked; use fewer steps"
            )
    states = np.asarray(source.read(chosen), np.float32)
    if members is not None:
        if members > states.shape[1]:
            raise ValueError(f"{source.name}: holds {states.shape[1]} members, {members} asked; use fewer")
        states = states[:, :members]

    def later(lead: int):
        return np.asarray(source.truth(chosen + stride * lead), np.float32)[:, None]

    for lead in range(leads + 1 if own_truth else 0):  # values that are missing are found before a long run, not in it
        later(lead)
    return Starts(states, source.hours[chosen], later if own_truth else None)


def _stride(source: Source, lead_hours: float) -> int:
    if source.truth is None:
        raise ValueError(f"{source.name}: has no later states that are a truth; use the truth sqg")
    interval = netcdf.interval_hours(source.name, 3600.0 * source.hours)
    stride = round(lead_hours / interval)
    if stride < 1 or abs(stride * interval - lead_hours) > 1e-6 * interval:
        wrong = f"has states every {interval:g} h, the surrogate's lead is {lead_hours:g} h"
        raise ValueError(f"{source.name}: {wrong}; give a file whose interval divides it or use the truth sqg")
    return stride


def _numbers(text: str, count: int, name: str) -> np.ndarray:
    """Numbers of states, each once and in order."""
    chosen = []
    for item in text.split(","):
        try:
            parts = [int(part) if part else None for part in item.split(":")]
            found = range(count)[slice(*parts)] if len(parts) > 1 else [range(count)[parts[0]]]
        except (ValueError, TypeError):
            raise ValueError(
                f"{name}: {text} are not numbers of states; give them as 3 or 0,5,-1 or 0:100:10"
            ) from None
        except IndexError:
            found = ()
        if not len(found):
            raise ValueError(f"{name}: {item} is out of range; it has states 0 to {count - 1}")
        chosen += found
    return np.unique(chosen)
