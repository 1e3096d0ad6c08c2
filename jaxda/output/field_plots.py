"""Figures of states: truth, observations, and every experiment's mean, error and spread at one time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxda.output import style

STATES, ERRORS, SPREADS = "RdBu_r", "PuOr", "viridis"


class Shown(NamedTuple):
    """One experiment's state at one boundary, `(N, N)` in K each, or a Lorenz-96 state `(d,)`."""

    truth: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


class Seen(NamedTuple):
    """Observed values, and their unit: on the grid `(N, N)`, NaN where there are none, or at places x and y [m]."""

    values: np.ndarray
    unit: str
    x: np.ndarray | None = None
    y: np.ndarray | None = None


def picture(
    figure: Figure, axes, field: np.ndarray, label: str, limits: tuple, colours: str, length: float, unit="K"
) -> None:
    """One field `(N, N)` with its title and its colours between two limits."""
    side = length / 1e6
    options = {"origin": "lower", "extent": (0, side, 0, side), "aspect": "equal", "cmap": colours}
    image = axes.imshow(field, vmin=limits[0], vmax=limits[1], **options)
    axes.set_title(label, fontsize="medium")
    beyond = (field < limits[0]).mean() > 0.01, (field > limits[1]).mean() > 0.01
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    figure.colorbar(image, ax=axes, label=unit, shrink=0.9, extend=extend)


def error_limit(error: np.ndarray) -> float:
    """Where the colours of an error end: one point in a thousand is beyond."""
    return max(float(np.quantile(np.abs(error), 0.999)), 1e-12)


def field_row(figure: Figure, row, truth: np.ndarray, estimate: np.ndarray, names, limit: float, length: float) -> None:
    """Truth, estimate and error `(N, N)` in K on three axes, the first two with colours from -limit to limit."""
    error = estimate - truth
    end = error_limit(error)
    of_error = f"error, RMS {np.sqrt(np.mean(error**2)):.2f} K"
    picture(figure, row[0], truth, names[0], (-limit, limit), STATES, length)
    picture(figure, row[1], estimate, names[1], (-limit, limit), STATES, length)
    picture(figure, row[2], error, of_error, (-end, end), ERRORS, length)
    row[0].set_ylabel("y [1000 km]")


def snapshot(path: str | Path, shown: Mapping[str, Shown], seen: Seen | None, length: float, title: str = "") -> None:
    """Truth and observations, then mean, error and spread of every experiment, at one boundary and time.

    Error and spread of a row have the same scale, so that a spread can be held against the error it should tell.

    Args:
        path: figure to write.
        shown: name -> states; experiments that went non-finite left out. Those that see another truth than the first
            (without shocks) have theirs beside it.
        seen: what the first of them observed; None: not drawn.
        length: side of the square [m].
        title: line above the figure.
    """
    first = next(iter(shown.values())).truth
    if first.ndim == 1:
        return _state_lines(path, shown, title)
    figure = Figure(figsize=(9.0, 2.7 * (len(shown) + 1) + 0.5), layout="constrained")
    rows = figure.subplots(len(shown) + 1, 3, squeeze=False, sharex=True, sharey=True)
    limit = float(np.abs(first).max())
    picture(figure, rows[0, 0], first, "truth", (-limit, limit), STATES, length)
    other = next((name for name, own in shown.items() if not np.array_equal(own.truth, first)), None)
    if seen is None:
        rows[0, 1].set_visible(False)
    else:
        _observed(figure, rows[0, 1], seen, limit, length)
    if other is None:
        rows[0, 2].set_visible(False)
    else:
        picture(figure, rows[0, 2], shown[other].truth, f"truth of {other}", (-limit, limit), STATES, length)
    for (name, own), row in zip(shown.items(), rows[1:], strict=True):
        error = own.mean - own.truth
        end = error_limit(error)
        picture(figure, row[0], own.mean, name, (-limit, limit), STATES, length)
        picture(figure, row[1], error, f"error, RMS {np.sqrt(np.mean(error**2)):.2f} K", (-end, end), ERRORS, length)
        mean_spread = np.sqrt(np.mean(own.spread**2))
        picture(figure, row[2], own.spread, f"spread, RMS {mean_spread:.2f} K", (0.0, end), SPREADS, length)
    for row in rows:
        row[0].set_ylabel("y [1000 km]")
    for axes in rows[-1]:
        axes.set_xlabel("x [1000 km]")
    style.save(figure, path, title, dpi=110)


def _observed(figure: Figure, axes, seen: Seen, limit: float, length: float) -> None:
    values = seen.values[np.isfinite(seen.values)]
    limit = limit if seen.unit == "K" else max(float(np.abs(values).max(initial=0.0)), 1e-12)
    label = f"{values.size} observations"
    axes.set_facecolor("0.85")
    if seen.x is None:
        return picture(figure, axes, seen.values, label, (-limit, limit), STATES, length, seen.unit)
    options = {"s": 9, "linewidths": 0, "vmin": -limit, "vmax": limit, "cmap": STATES}
    image = axes.scatter(seen.x / 1e6, seen.y / 1e6, c=seen.values, **options)
    axes.set(xlim=(0, length / 1e6), ylim=(0, length / 1e6), aspect="equal")
    axes.set_title(label, fontsize="medium")
    figure.colorbar(image, ax=axes, label=seen.unit, shrink=0.9)


def _state_lines(path: str | Path, shown: Mapping[str, Shown], title: str) -> None:
    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    drawn = slice(0, 100)
    different = {}  # with the first experiment that sees it
    for name, own in shown.items():
        different.setdefault(own.truth.tobytes(), name)
    for grey, name in zip(("black", "0.6"), different.values(), strict=False):  # with and without shocks
        label = "truth" if len(different) == 1 else f"truth of {name}"
        upper.plot(shown[name].truth[drawn], color=grey, linewidth=2.0, label=label)
    for i, (name, own) in enumerate(shown.items()):
        line = {**style.of_number(i), "linewidth": 1.1}
        upper.plot(own.mean[drawn], label=name, **line)
        lower.semilogy(np.abs(own.mean - own.truth)[drawn], **line)
        lower.semilogy(own.spread[drawn], color=line["color"], linestyle=":", linewidth=1.1)
    lower.plot([], [], color="0.3", linewidth=1.1, label="error of the mean")
    lower.plot([], [], color="0.3", linestyle=":", linewidth=1.1, label="spread")
    upper.set(ylabel="x [1]")
    lower.set(xlabel="variable", ylabel="error, spread [1]")
    for axes in (upper, lower):
        style.grid(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    style.save(figure, path, title, dpi=130)
