"""Does an ensemble know its errors: rank histograms, and errors against the spread that should tell them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jaxda.diagnostics import Flatness, SpreadSkill
from jaxda.output import style

#: bins with a smaller part of the points are not drawn [1]
LEAST = 0.003
#: members whose spread at a point says something: that of fewer is sampling noise
ENOUGH = 5


def rank_histograms(path: str | Path, found: Mapping[str, tuple[np.ndarray, float, Flatness]], title: str = "") -> None:
    """Rank histograms, a panel an experiment: 1 is flat, grey is where 95 % of a reliable ensemble's bars end.

    Args:
        path: figure to write.
        found: name -> counts (M + 1,), their `design_effect` and `flatness`.
        title: line above the figure.
    """
    figure, panels = style.panels(len(found), 2.9, 2.5)
    for axes, (name, (counts, design, test)) in zip(panels, found.items(), strict=True):
        number, total = len(counts), counts.sum()
        half = 1.96 * np.sqrt(design * (number - 1) / total)
        axes.axhspan(1 - half, 1 + half, color="0.85", linewidth=0)
        axes.axhline(1.0, color="0.4", linewidth=0.8)
        axes.bar(np.arange(number), number * counts / total, 0.8, color=style.COLOURS[0], alpha=0.8)
        axes.set_title(name, fontsize="medium")
        said = f"slope {float(test.slope):+.1f}, convexity {float(test.convexity):+.1f}"
        axes.set_xlabel(said, fontsize="small", color="0.3")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylim(0.0, 1.08 * max(number * counts.max() / total, 1 + half))
    figure.supxlabel("members below the truth", fontsize="medium")
    figure.supylabel("frequency over a flat one's [1]", fontsize="medium")
    style.save(figure, path, title)


def spread_skill(path: str | Path, found: Mapping[str, tuple[SpreadSkill, int]], unit: str, title: str = "") -> None:
    """Error of the mean against the spread, both roots of means of squares over the points of a bin.

    The spread is times sqrt((M + 1)/M), so that a reliable ensemble of any size is on the diagonal
    (`jaxda.diagnostics.spread_skill`).

    Args:
        path: figure to write.
        found: name -> sums in bins `(B,)`, number of members; those of fewer than ENOUGH are not drawn beside others.
        unit: of the scores.
        title: line above the figure.
    """
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    ends, most = [], max(members for _, members in found.values())
    for i, (name, (sums, members)) in enumerate(found.items()):
        if members < min(ENOUGH, most):
            continue
        good = sums.points > LEAST * sums.points.sum()
        spread = np.sqrt((1 + 1 / members) * sums.variance[good] / sums.points[good])
        error = np.sqrt(sums.square[good] / sums.points[good])
        axes.loglog(spread, error, marker="o", markersize=4, label=name, **style.of_number(i))
        ends += [*spread, *error]
    ends = [end for end in ends if end > 0]
    low, high = (0.8 * min(ends), 1.25 * max(ends)) if ends else (0.1, 1.0)
    axes.plot([low, high], [low, high], color="0.5", linewidth=1.0, linestyle="--", label="reliable")
    shown = f" [{unit}]"
    axes.set(xlabel=f"spread{shown}", ylabel=f"RMSE of the mean{shown}")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    style.grid(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    style.save(figure, path, title)
