"""Figures of series: errors against time, members at a point, a training against its steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from jaxda.output import style


def _logarithmic(axes) -> None:
    """Numbers such as 0.5, 1, 2 on a logarithmic axis."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def rmse_against_time(
    path: str | Path, panels: Mapping[str, Mapping], hours: np.ndarray, unit: str, sigma=None, title: str = ""
) -> None:
    """Analysis error of every experiment against time, with the observation error as a line.

    Args:
        path: figure to write.
        panels: name of a panel -> (name -> errors (T,)), panels one below the other.
        hours: times of the analyses (T,) [h].
        unit: of the scores.
        sigma: standard deviation(s) of the observation errors in that unit, drawn dotted; None to leave out.
        title: line above the figure.
    """
    figure = Figure(figsize=(7.2, 0.6 + 3.8 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), squeeze=False, sharex=True, sharey=True)[:, 0]
    width = -(-len(hours) // 400)  # cycles in a mean, so that long series stay apart
    means = lambda series: np.add.reduceat(series, np.arange(0, len(series), width)) / counts
    counts = np.diff(np.append(np.arange(0, len(hours), width), len(hours)))
    shown = "" if unit == "1" else f" {unit}"
    thick = 1.5 if len(hours) <= 100 else 0.9
    of = f", means of {width} cycles" if width > 1 else ""
    for axes, (panel, errors) in zip(all_axes, panels.items(), strict=True):
        for i, (name, error) in enumerate(errors.items()):
            drawn = style.of_number(i) | {"label": name, "linewidth": thick}
            axes.semilogy(means(np.asarray(hours) / 24.0), means(np.asarray(error, float)), **drawn)
        for value in np.unique(np.atleast_1d(np.asarray(sigma if sigma is not None else [], float))):
            axes.axhline(value, color="0.35", linestyle=":", linewidth=1.2, label=f"observation error {value:g}{shown}")
        axes.set(ylabel=f"analysis RMSE{f' [{unit}]' if shown else ''}{of}", title=panel if len(panels) > 1 else "")
        _logarithmic(axes)
        style.grid(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    all_axes[-1].set_xlabel("time [day]")
    style.save(figure, path, title)


def plume(
    path: str | Path,
    members: Mapping[str, np.ndarray],
    truth: np.ndarray,
    seen: np.ndarray,
    hours: np.ndarray,
    label: str,
    title: str = "",
) -> None:
    """Members at one point against time beside the truth and what was observed there, a panel an experiment.

    Args:
        path: figure to write.
        members: name -> members (T, M).
        truth: (T,); seen: observed values in the unit of the state, NaN where there is none, (T,).
        hours: times (T,) [h].
        label: of the vertical axis, with its unit.
        title: line above the figure.
    """
    figure, panels = style.panels(len(members), 3.6, 2.6, columns=2, sharex=True, sharey=True)
    days = np.asarray(hours) / 24.0
    for i, (axes, (name, own)) in enumerate(zip(panels, members.items(), strict=True)):
        colour = style.COLOURS[i % (len(style.COLOURS) - 1)]  # black is the truth's
        axes.plot(days, own, color=colour, linewidth=0.7, alpha=0.6)
        axes.plot(days, truth, color="black", linewidth=1.6, label="truth")
        if np.isfinite(seen).any():
            axes.plot(days, seen, "x", color="0.25", markersize=4, label="observed")
        axes.set_title(f"{name}, {own.shape[1]} members", fontsize="medium")
        style.grid(axes)
    panels[0].legend(frameon=False, fontsize="small", loc="lower left", ncols=2)
    low, high = (f(np.concatenate([truth, seen[np.isfinite(seen)]])) for f in (np.min, np.max))
    for axes in panels:  # members that lost the truth may leave, its own variations stay visible
        axes.set_ylim(low - 0.8 * (high - low) - 1e-9, high + 0.8 * (high - low) + 1e-9)
    style.label_below(panels, "time [day]", columns=2)
    figure.supylabel(label, fontsize="medium")
    style.save(figure, path, title)


def training(path: str | Path, rows: Mapping[str, np.ndarray], title: str = "") -> None:
    """Loss, learning rate, and the error of the validation by lead beside persistence's, against the step.

    Args:
        path: figure to write.
        rows: column of log.csv -> values (T,): step, loss, learning_rate, and rmse_K, persistence_K [K] of each lead K.
        title: line above the figure.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    step, few = rows["step"], {"marker": "o", "markersize": 3} if len(rows["step"]) < 30 else {}
    loss = left.semilogy(step, rows["loss"], color=style.COLOURS[0], label="loss of the training", **few)
    left.set(xlabel="step", ylabel="loss [1]")
    other = left.twinx()
    rate = other.plot(step, rows["learning_rate"], color="0.5", linestyle="--", label="learning rate")
    other.set_ylabel("learning rate [1]")
    other.set_ylim(bottom=0.0)
    left.legend(handles=loss + rate, frameon=False, fontsize="small")
    leads = sorted(int(name.removeprefix("rmse_")) for name in rows if name.removeprefix("rmse_").isdigit())
    for i, lead in enumerate(leads):
        own = style.of_number(i)
        right.semilogy(step, rows[f"rmse_{lead}"], label=f"lead {lead}", **own, **few)
        right.semilogy(step, rows[f"persistence_{lead}"], color=own["color"], linestyle=":", linewidth=1.0)
    right.plot([], [], color="0.3", linestyle=":", linewidth=1.0, label="persistence")
    right.set(xlabel="step", ylabel="RMSE of the validation [K]")
    right.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        _logarithmic(axes)
        style.grid(axes)
    style.save(figure, path, title)
