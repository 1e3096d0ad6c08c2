"""Figures of benchmarks: cost against size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxda.output.plots import COLOURS, LINES

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def costs(path: str | Path, curves: Mapping[str, tuple], xlabel: str, title: str = "") -> None:
    """Time against a size, both logarithmic, with the spread of the runs and the power that was fitted.

    Args:
        path: figure to write, ending in one of plots.FORMATS.
        curves: name -> (sizes x `(n,)`, seconds of each run `(n, repeats)`, exponent p and factor c of c x^p [s]).
        xlabel: what x is, with its unit.
        title: line above the figure.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, (x, seconds, (power, factor))) in enumerate(curves.items()):
        colour, x, times = COLOURS[i % len(COLOURS)], np.asarray(x, float), 1e3 * np.asarray(seconds, float)
        middle = np.median(times, 1)
        spread = np.abs(np.stack([times.min(1), times.max(1)]) - middle)
        style = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 5, "capsize": 3}
        axes.errorbar(x, middle, spread, linestyle="none", **style)
        line = {"color": colour, "linestyle": LINES[i % len(LINES)], "linewidth": 1.5}
        axes.plot(x, 1e3 * factor * x**power, label=f"{name}: $x^{{{power:.2f}}}$", **line)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="time of a unit, median and range [ms]")
    ticks = sorted({float(x) for sizes, *_ in curves.values() for x in sizes})
    axes.set_xticks(ticks, [f"{tick:.6g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(which="both", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)
