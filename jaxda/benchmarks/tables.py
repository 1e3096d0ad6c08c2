"""Measurements as tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from jaxda.benchmarks.measuring import Measured
from jaxda.benchmarks.sweep import exponent
from jaxda.parallel.hlo import Collective


def _table(columns: Iterable[str], left: int, title: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


def _milliseconds(seconds: Sequence[float]) -> list[str]:
    return [f"{1e3 * number:.3f}" for number in (statistics.median(seconds), min(seconds), max(seconds))]


def times(found: Mapping[str, Measured], before: Mapping[str, float] | None, title: str) -> Table:
    """Median and spread of each benchmark and code, a unit, beside peers, earlier runs and, of a model, products.

    Args:
        before: earlier medians [s], of --compare; None leaves their column out.
        title: line above.
    """
    works = any(one.work for one in found.values())
    columns = ["benchmark", "code", "median [ms]", "min [ms]", "max [ms]", "peer / jaxda"]
    columns += ["before / now"] if before is not None else []
    table = _table([*columns, *(["GFLOP/s", "of product"] if works else [])], 2, title)
    for name, one in found.items():
        for code, seconds in one.seconds.items():
            ours, own = one.medians["jaxda"], []
            own.append(f"{one.medians[code] / ours:.2f}" if code == "peer" else "")
            if before is not None:
                own.append(f"{before[name] / ours:.2f}" if code == "jaxda" and name in before else "")
            if works:
                rate = one.work / (ours * one.units) if one.work and code == "jaxda" else None
                own += [f"{rate / 1e9:.4g}", f"{rate / one.rates['product']:.2f}"] if rate else ["", ""]
            table.add_row(name, code, *_milliseconds(seconds), *own)
    return table


def limits(found: Mapping[str, Measured]) -> Table | None:
    """What each program computes and moves, a unit, and how near its nearest ceiling is; None for no programs."""
    known = {name: one for name, one in found.items() if one.counts}
    if not known:
        return None
    columns = ("benchmark", "bytes [MB]", "products", "FFT", "other", "integer", "ceiling", "its rate", "share")
    title = "counted in the compiled programs, 10^9 operations a unit; ceilings of this run"
    table, notes = _table(columns, 1, title), []
    for name, one in known.items():
        counts, share = one.counts, one.share
        least = "≥ " if counts.open_loops or counts.uncounted else ""
        numbers = (counts.products, counts.fft, counts.factors + counts.elementwise, counts.integer)
        rate = f"{share.rate / 1e9:.4g} {'GB/s' if share.nearest == 'copy' else 'GFLOP/s'}"
        shown = [f"{least}{number / one.units / 1e9:.3g}" for number in numbers]
        moved = f"{least}{counts.bytes / one.units / 1e6:.3g}"
        table.add_row(name, moved, *shown, share.nearest, rate, f"{least}{share.share:.2f}")
        notes += [f"{name}: {counts.open_loops} loops that end by their data, counted once"] * bool(counts.open_loops)
        notes += [f"{name}: not counted: {', '.join(counts.uncounted)}"] * bool(counts.uncounted)
    table.caption = "; ".join(notes) or None
    return table


def swept(found: Mapping[str, Mapping[int, Sequence[float]]], size: str) -> Table:
    """Time of each benchmark at each size, and the fitted power of it; of N, of the grid points."""
    fitted = "of grid points" if size == "N" else f"of {size}"
    table = _table(("benchmark", size, "median [ms]", "min [ms]", "max [ms]", f"exponent {fitted}"), 1, "sweep")
    for name, seconds in found.items():
        power = f"{exponent(size, seconds)[0]:.2f}"
        for value, some in seconds.items():
            table.add_row(name, str(value), *_milliseconds(some), power if value == max(seconds) else "")
    return table


def searched(found: Iterable[tuple[str, int, float | None]]) -> Table:
    """Rates of training steps by remat policy and batch."""
    table = _table(("remat", "batch", "TFLOP/s"), 1, "training steps")
    for remat, batch, rate in found:
        table.add_row(remat, str(batch), _rate(rate))
    return table


def heatmap(found: Mapping[tuple, float | None]) -> Table:
    """Rates of training steps by ratio, heads and width."""
    table = _table(("MLP ratio", "heads", "width", "TFLOP/s"), 0, "training steps")
    for (ratio, heads, width), rate in found.items():
        table.add_row(f"{ratio:g}", str(heads), str(width), _rate(rate))
    return table


def _rate(rate: float | None) -> str:
    return "does not fit" if rate is None else f"{rate / 1e12:.4g}"


def weak_scaling(
    seconds: Mapping[int, Sequence[float]], members: int, collectives: Sequence[Collective], title: str
) -> Table:
    """Members a second by number of processes, and what the program of the last communicates."""
    columns = ("processes", "median [ms]", "min [ms]", "max [ms]", "members/s", "to the first")
    table = _table(columns, 0, title)
    rates = {count: count * members / statistics.median(some) for count, some in seconds.items()}
    for count, some in seconds.items():
        ratio = rates[count] / next(iter(rates.values()))
        table.add_row(str(count), *_milliseconds(some), f"{rates[count]:.4g}", f"{ratio:.2f}")
    said = ", ".join(f"{one.kind} of {one.bytes} B{' in a loop' if one.looped else ''}" for one in collectives)
    table.caption = f"collectives of an analysis by {count} processes: {said or 'none'}"
    return table
