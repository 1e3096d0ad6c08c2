"""The figure of a real-time run: its loop, and the time that each stage of it took.

python -c "from jaxda.output import realtime_plots as p; p.loop('docs/realtime_loop.png')"
python -c "from jaxda.output import realtime_plots as p; p.stages('stages.png', 'runs/realtime/status.csv')"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from jaxda.output.style import COLOURS

BLUE, ORANGE, GREEN, PURPLE = COLOURS[:4]
#: name -> centre, size, colour, first line and the others; in units of the figure's grid
BOXES = {
    "files": ((1.6, 4.0), (2.4, 1.3), BLUE, "observation files", "values, positions,\nerrors, time"),
    "screen": ((4.9, 4.0), (2.4, 1.3), BLUE, "judge and screen", "which cycle, in time?\nabsurd values out"),
    "analysis": ((8.2, 4.0), (2.4, 1.3), ORANGE, "analysis", "filter: local-score,\nLETKF, EnSF"),
    "products": ((11.7, 4.0), (2.6, 1.3), GREEN, "products", "mean, spread, innovations,\ntime of each stage"),
    "forecast": ((8.2, 1.6), (2.4, 1.3), ORANGE, "forecast", "M members, 12 h on,\nby SQG or the surrogate"),
    "checkpoint": ((11.7, 1.6), (2.6, 1.3), GREEN, "checkpoint", "the cycle is done;\na restart begins here"),
    "aside": ((1.6, 1.6), (2.4, 1.3), "0.45", "put aside", "rejected, late, duplicate,\nwith the reason"),
    "training": (
        (4.9, 1.6),
        (2.4, 1.3),
        PURPLE,
        "online training",
        "the surrogate learns from\nanalyses and innovations",
    ),
}


def _box(axes, centre, size, colour: str, title: str, text: str) -> None:
    corner = np.subtract(centre, np.divide(size, 2))
    style = {"linewidth": 1.8, "edgecolor": colour, "facecolor": "white"}
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.14", zorder=2, **style))
    axes.text(centre[0], centre[1] + 0.36, title, ha="center", va="center", color=colour, weight="bold", fontsize=11)
    axes.text(centre[0], centre[1] - 0.18, text, ha="center", va="center", fontsize=8.5, color="0.15", linespacing=1.25)


def _arrow(axes, start, end, label: str = "", at=None, colour="0.25", **text) -> None:
    shape = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, zorder=1, color=colour, linewidth=1.5, **shape))
    if label:
        place = np.add(start, end) / 2 if at is None else at
        options = {"ha": "center", "va": "center", "fontsize": 8.5, "color": "0.25", "linespacing": 1.2} | text
        axes.text(*place, label, **options)


def loop(path: str | Path) -> None:
    """Draw the loop: files -> screening -> analysis -> products, and the forecast back to the next analysis."""
    figure = Figure(figsize=(11.0, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0.1, 13.3), ylim=(0.5, 4.8), aspect="equal")
    axes.set_axis_off()
    for box in BOXES.values():
        _box(axes, *box)
    _arrow(axes, (2.8, 4.0), (3.7, 4.0), "as they\narrive", (3.25, 4.36))
    _arrow(axes, (6.1, 4.0), (7.0, 4.0), "one a\ncycle", (6.55, 4.36))
    _arrow(axes, (9.4, 4.0), (10.4, 4.0))
    _arrow(axes, (7.75, 3.35), (7.75, 2.25), "analysis\nensemble", (7.66, 2.8), ha="right")
    _arrow(axes, (8.65, 2.25), (8.65, 3.35), "forecast\nensemble", (8.76, 2.8), ha="left")
    _arrow(axes, (9.4, 1.6), (10.4, 1.6))
    _arrow(axes, (9.4, 2.0), (10.8, 3.35))
    _arrow(axes, (11.7, 3.35), (11.7, 2.25), "after they are written", (11.8, 2.8), ha="left", wrap=False)
    _arrow(axes, (4.2, 3.35), (2.5, 2.25), "nothing is deleted", (3.05, 2.98), rotation=32.9, rotation_mode="anchor")
    _arrow(axes, (7.0, 3.6), (5.5, 2.25), colour=PURPLE)
    _arrow(axes, (6.1, 1.6), (7.0, 1.6), "weights", (6.55, 1.78), colour=PURPLE)
    axes.text(4.9, 0.7, "where the surrogate forecasts and learns", ha="center", fontsize=8.5, color=PURPLE)
    figure.savefig(path, dpi=130)
