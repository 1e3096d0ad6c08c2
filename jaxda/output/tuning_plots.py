"""The figure of a search: score against value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxda.output import style


def trials(path: str | Path, done: Sequence, unit: str, title: str = "") -> None:
    """Score against value, a panel a field that was searched; the best is marked.

    Args:
        path: figure to write.
        done: trials (`jaxda.tuning.Trial`), best first. Those with an infinite score are drawn at the top.
        unit: of the scores.
        title: line above the figure.
    """
    fields = list(done[0].values)
    scores = np.array([trial.score for trial in done])
    lost = ~np.isfinite(scores)
    top = 1.1 * scores[~lost].max() if (~lost).any() else 1.0
    columns = min(len(fields), 4)
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(max(3.0 * columns, 6.0), 3.0 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for field, axes in zip(fields, panels, strict=False):
        values = [trial.values[field] for trial in done]
        if any(isinstance(value, str | bool) or np.isinf(value) for value in values):  # no axis of numbers
            names = sorted(set(map(str, values)))
            x = np.array([names.index(str(value)) for value in values])
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        else:
            x = np.array(values, float)
            if len(set(values)) <= 6:
                axes.set_xticks(sorted(set(x)), [f"{value:g}" for value in sorted(set(x))])
        axes.plot(x[~lost], scores[~lost], "o", color=style.COLOURS[0], markersize=4, alpha=0.6)
        if lost.any():
            axes.plot(x[lost], np.full(lost.sum(), top), "x", color="0.35", label="lost the truth")
        if not lost[0]:
            axes.plot(x[:1], scores[:1], "*", color=style.COLOURS[1], markersize=13, label=f"best, {scores[0]:.3g}")
        axes.set_xlabel(field)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[::columns]:
        axes.set_ylabel(f"analysis RMSE{f' [{unit}]' if unit != '1' else ''}")
    for axes in panels[len(fields) :]:
        axes.set_visible(False)
    panels[0].legend(frameon=False, fontsize="small")
    style.save(figure, path, title)
