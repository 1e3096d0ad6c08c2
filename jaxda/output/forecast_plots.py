"""Figures of forecasts: scores by lead, spectra at some leads, and what the fields look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxda.output.field_plots import field_row
from jaxda.output.style import COLOURS, save

#: score -> label, colour, line
ERRORS = {
    "rmse": ("surrogate", COLOURS[0], "-"),
    "rmse_mean": ("surrogate, ensemble mean", COLOURS[5], "-"),
    "spread": ("surrogate, spread", COLOURS[5], ":"),
    "rmse_sqg": ("SQG", COLOURS[2], "-."),
    "rmse_mean_sqg": ("SQG, ensemble mean", COLOURS[4], "-."),
    "spread_sqg": ("SQG, spread", COLOURS[4], ":"),
    "persistence": ("persistence", COLOURS[1], "--"),
    "climatology": ("climatology", "0.4", ":"),
}
CORRELATIONS = {
    "correlation": ("surrogate", COLOURS[0], "-"),
    "correlation_sqg": ("SQG", COLOURS[2], "-."),
    "persistence_correlation": ("persistence", COLOURS[1], "--"),
}


def some_leads(steps: int, count: int) -> list[int]:
    """Numbers of up to `count` leads, the first and the last among them, evenly spaced in their logarithm."""
    return np.unique(np.rint(np.geomspace(1, steps, count)).astype(int)).tolist()


def of_run(folder: Path, found: Mapping, of_waves: Mapping, fields: Mapping, lead_hours: float, length: float, title):
    """All figures of a forecast: `scores.png`, `spectra.png` and `snapshots.png`, those of its fields that are finite.

    Args:
        folder: made if it is not there.
        found, of_waves: as for `scores` and `spectra`.
        fields: number of the lead -> truth and forecast at the upper boundary `(2, N, N)` in K.
        lead_hours, length, title: as for `snapshots`.
    """
    folder.mkdir(exist_ok=True)
    scores(folder / "scores.png", found, lead_hours, title)
    spectra(folder / "spectra.png", of_waves, list(fields), lead_hours, title)
    good = {lead: pair for lead, pair in fields.items() if np.isfinite(pair).all()}
    if good:
        truth, forecast = ({lead: pair[i] for lead, pair in good.items()} for i in (0, 1))
        title += "; the first of them, upper boundary"
        snapshots(folder / "snapshots.png", forecast, truth, lead_hours, length, title)


def scores(path: str | Path, found: Mapping[str, np.ndarray], lead_hours: float, title: str = "") -> None:
    """RMSE and anomaly correlation against lead time.

    Args:
        path: figure to write.
        found: score -> values by lead from 0 on, (k,); those of `ERRORS` and `CORRELATIONS` are drawn.
        lead_hours: of one lead [h].
        title: line above the figure.
    """
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, lines in ((left, ERRORS), (right, CORRELATIONS)):
        for name in (name for name in lines if name in found):
            label, colour, line = lines[name]
            values = np.asarray(found[name], float)
            days = lead_hours / 24.0 * np.arange(len(values))
            marker = "." if len(values) < 12 else None  # a lone lead is seen too
            axes.plot(days, values, color=colour, linestyle=line, marker=marker, linewidth=1.6, label=label)
        axes.set_xlabel("lead time [day]")
        axes.set_xlim(left=0.0)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    left.set_ylabel("RMSE, spread [K]" if "spread" in found else "RMSE [K]")
    left.set_ylim(bottom=0.0)
    right.set_ylabel("anomaly correlation [1]")
    right.set_ylim(top=1.02)
    save(figure, path, title, dpi=150)


def spectra(
    path: str | Path, found: Mapping[str, np.ndarray], leads: Sequence[int], lead_hours: float, title: str = ""
) -> None:
    """Variance of temperature against wavenumber: truth, forecast and error, a panel a lead.

    Args:
        path: figure to write.
        found: `truth`, `forecast`, `error`: by lead from 0 on, `(k, N/2 + 1)` in K^2. The mean (0) and the last ring,
            which holds the corners too, are not drawn.
        leads: numbers of the leads to draw.
        lead_hours: of one lead [h].
        title: line above the figure.
    """
    figure = Figure(figsize=(3.1 * len(leads) + 0.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(leads), squeeze=False, sharex=True, sharey=True)[0]
    styles = {"truth": ("black", "-", 2.4), "forecast": (COLOURS[0], "--", 1.6), "error": (COLOURS[1], "-.", 1.3)}
    octaves = 2.0 ** np.arange(int(np.log2(found["truth"].shape[1])) + 1)
    for lead, axes in zip(leads, panels, strict=True):
        for name, (colour, line, width) in styles.items():
            values = np.asarray(found[name][lead], float)[1:-1]
            wavenumber = np.arange(1, len(values) + 1)
            drawn = np.where(values > 0, values, np.nan)  # an error of nothing has no place on a logarithmic axis
            axes.loglog(wavenumber, drawn, color=colour, linestyle=line, linewidth=width, label=name)
        axes.set_title(f"{lead_hours * lead:g} h", fontsize="medium")
        axes.set_xlabel("waves along a side")
        axes.xaxis.set_ticks(octaves, [f"{tick:g}" for tick in octaves])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    truth, forecast = (np.asarray(found[name], float)[list(leads), 1:-1] for name in ("truth", "forecast"))
    if np.isfinite(truth).all() and truth.min() > 0:  # errors may be as small as rounding
        top = max(truth.max(), np.max(forecast, initial=0.0, where=np.isfinite(forecast)))
        panels[0].set_ylim(1e-3 * truth.min(), 5.0 * top)
    panels[0].set_ylabel("variance of temperature [K²]")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save(figure, path, title, dpi=150)


def snapshots(
    path: str | Path, forecast: Mapping[int, np.ndarray], truth: Mapping[int, np.ndarray], lead_hours: float,
    length: float, title: str = "",
) -> None:  # fmt: skip
    """Truth, forecast and error, a row a lead.

    Args:
        path: figure to write.
        forecast, truth: number of the lead -> temperature `(N, N)` in K.
        lead_hours: of one lead [h].
        length: side of the square [m].
        title: line above the figure.
    """
    figure = Figure(figsize=(9.0, 2.4 * len(forecast) + 0.6), layout="constrained")
    rows = figure.subplots(len(forecast), 3, squeeze=False, sharex=True, sharey=True)
    limit = max(float(np.abs(field).max()) for field in truth.values())
    for (lead, field), row in zip(forecast.items(), rows, strict=True):
        after = f"{lead_hours * lead:g} h"
        names = (f"truth, {after}", f"forecast, {after}")
        field_row(figure, row, truth[lead], field, names, limit, length)
    for axes in rows[-1]:
        axes.set_xlabel("x [1000 km]")
    save(figure, path, title, dpi=110)
