"""Figures of benchmarks: cost against size, rates of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxda.output import style

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def costs(path: str | Path, curves: Mapping[str, tuple], xlabel: str, title: str = "") -> None:
    """Time against a size, both logarithmic, with the spread of the runs and the power that was fitted.

    Args:
        path: figure to write, ending in one of style.FORMATS.
        curves: name -> (sizes x `(n,)`, seconds of each run `(n, repeats)`, exponent p and factor c of c x^p [s]).
        xlabel: what x is, with its unit.
        title: line above the figure.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, (x, seconds, (power, factor))) in enumerate(curves.items()):
        colour, x, times = style.COLOURS[i % len(style.COLOURS)], np.asarray(x, float), 1e3 * np.asarray(seconds, float)
        middle = np.median(times, 1)
        spread = np.abs(np.stack([times.min(1), times.max(1)]) - middle)
        points = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 5, "capsize": 3}
        axes.errorbar(x, middle, spread, linestyle="none", **points)
        line = {"color": colour, "linestyle": style.LINES[i % len(style.LINES)], "linewidth": 1.5}
        axes.plot(x, 1e3 * factor * x**power, label=f"{name}: power {power:.2f}", **line)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="time of a unit, median and range [ms]")
    ticks = sorted({float(x) for sizes, *_ in curves.values() for x in sizes})
    axes.set_xticks(ticks, [f"{tick:.6g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    style.grid(axes)
    axes.legend(frameon=False)
    style.save(figure, path, title)


def rates(path: str | Path, found: Mapping, title: str = "") -> None:
    """TFLOP/s over width and heads, a panel for each MLP ratio.

    Args:
        path: figure to write.
        found: (MLP ratio, heads, width) -> rate [FLOP/s], or None where it did not fit in memory.
    """
    ratios, heads, widths = (sorted({key[i] for key in found}) for i in range(3))
    values = np.array([[[found[r, h, w] or np.nan for w in widths] for h in heads] for r in ratios], float) / 1e12
    figure = Figure(
        figsize=(max(1.2 + 0.9 * len(widths) * len(ratios), 4.8), 1.4 + 0.6 * len(heads)), layout="constrained"
    )
    panels = figure.subplots(1, len(ratios), squeeze=False, sharey=True).ravel()
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    for axes, ratio, panel in zip(panels, ratios, values, strict=True):
        image = axes.imshow(panel, vmin=low, vmax=high, origin="lower", aspect="auto", cmap="cividis")
        axes.set_xticks(range(len(widths)), [str(width) for width in widths])
        axes.set_yticks(range(len(heads)), [str(head) for head in heads])
        axes.set(title=f"MLP ratio {ratio:g}", xlabel="width of a token")
        for (y, x), value in np.ndenumerate(panel):
            dark = np.isfinite(value) and value < 0.5 * (low + high)
            text = f"{value:.3g}" if np.isfinite(value) else "-"
            axes.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize="small")
    panels[0].set_ylabel("heads")
    figure.colorbar(image, ax=panels, label="TFLOP/s")
    style.save(figure, path, title)
