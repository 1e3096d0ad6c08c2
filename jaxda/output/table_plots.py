"""The figure of a run that has none: curves of its table, as far as that goes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from jaxda.output import style
from jaxda.output.run_folder import REALTIME, TRAINING, TWIN, RunFolder, number

#: kind of a run -> its table, column and unit of the horizontal axis, and columns with what they are called
TABLES = {
    REALTIME: (
        ("status.csv", "time_h", 24.0, "time [day]"),
        {
            "innovation_rms": "innovation",
            "expected_rms": "innovation that spread and errors promise",
            "spread_b": "spread of the forecast",
            "spread_a": "spread of the analysis",
        },
    ),
    TRAINING: (("log.csv", "step", 1.0, "step"), {"rmse_1": "RMSE after one lead", "persistence_1": "persistence"}),
}


def of_run(run: RunFolder) -> bytes | None:
    """A PNG of errors against time, or steps; None where the table has no finite number."""
    if run.kind == TWIN:
        curves = {name: own["rmse_a"] for name, own in run.scores.items() if np.isfinite(own.get("rmse_a", [])).any()}
        lines = {name: (run.times[: len(y)] / 24.0, y[: len(run.times)]) for name, y in curves.items()}
        return _curves(lines, "time [day]", f"analysis RMSE [{run.unit}]", run.title, _sigma(run))
    if run.kind not in TABLES:
        return None
    (table, column, scale, label), names = TABLES[run.kind]
    values = lambda name: np.array([number(row.get(name)) for row in run.tables.get(table, [])])
    lines = {name: (values(column) / scale, values(key)) for key, name in names.items()}
    return _curves(lines, label, f"RMS [{run.unit}]", run.title)


def _sigma(run: RunFolder) -> list[float]:
    """Standard deviations of the observations' errors, where they have the unit of the scores."""
    own = run.settings.get("observations")
    if not isinstance(own, dict) or own.get("operator") == "arctan":
        return []
    sigma = own.get("sigma")
    return [value for value in map(number, sigma if isinstance(sigma, list) else [sigma]) if 0 < value < np.inf]


def _curves(lines: Mapping[str, tuple], xlabel: str, ylabel: str, title: str, levels: list[float] = ()) -> bytes | None:
    lines = {name: (x, y) for name, (x, y) in lines.items() if np.isfinite(x + y).any()}
    if not lines:
        return None
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for i, (name, (x, y)) in enumerate(lines.items()):
        few = {"marker": "o", "markersize": 3} if len(x) < 40 else {}
        axes.plot(x, np.where(y > 0, y, np.nan), label=name, **style.of_number(i), **few)
    for level in levels:
        axes.axhline(level, color="0.35", linestyle=":", label=f"observation error {level:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    style.grid(axes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    found = io.BytesIO()
    style.save(figure, found, title, dpi=130)
    return found.getvalue()
