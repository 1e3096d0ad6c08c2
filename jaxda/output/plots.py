"""Figures, drawn without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

#: Okabe & Ito's colours, told apart by the colour-blind too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
#: Endings of figure files.
FORMATS = (".png", ".pdf", ".svg")


def spectrum(path: str | Path, energies: Mapping[str, np.ndarray], length: float, title: str = "") -> None:
    """Kinetic energy against wavenumber, with a line of slope -5/3 through the middle of the spectra.

    Args:
        path: figure to write, ending in one of FORMATS; replaced if it exists.
        energies: name -> energy of each integer wavenumber 0 ... n/2, `(n/2 + 1,)` in m^2/s^2. The mean (0) and the
            last ring, which holds the corners too, are not drawn.
        length: side of the square [m].
        title: line above the figure.
    """
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, energy) in enumerate(energies.items()):
        wavenumber = np.arange(1, len(energy) - 1)
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        axes.loglog(wavenumber, energy[1:-1], label=name, linewidth=1.8, **style)
    # The line spans the waves that are neither forced by the jet nor damped, and runs above the curves.
    inertial = np.arange(3, max(5, len(energy) // 2))
    height = max(np.max(np.asarray(e)[inertial] * inertial ** (5 / 3)) for e in energies.values())
    axes.loglog(inertial, 1.3 * height * inertial ** (-5 / 3), color="0.4", linewidth=1.2, label="slope $-5/3$")
    axes.set(xlabel="wavenumber [waves along a side]", ylabel="kinetic energy at each wavenumber [m²/s²]")
    octaves = 2.0 ** np.arange(int(np.log2(len(energy))) + 1)
    to_length = lambda x: length / 1000.0 / np.maximum(x, 1e-9)
    top = axes.secondary_xaxis("top", functions=(to_length, to_length))
    top.set_xlabel("wavelength [km]")
    for axis, ticks in ((axes.xaxis, octaves), (top.xaxis, to_length(octaves))):
        axis.set_ticks(ticks, [f"{tick:.5g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    axes.grid(which="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def rmse_against_time(path: str | Path, panels: Mapping, hours: np.ndarray, unit: str, sigma=None, title="") -> None:
    """Analysis error of every experiment against time, with the observation error as a line.

    Args:
        path: figure to write.
        panels: name of a panel -> (name -> record with `scores.rmse_a` (T,)), panels one below the other.
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
    for axes, (panel, records) in zip(all_axes, panels.items(), strict=True):
        for i, (name, record) in enumerate(records.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % len(LINES)]}
            error = means(np.asarray(record.scores.rmse_a, float))
            axes.semilogy(means(np.asarray(hours) / 24.0), error, label=name, linewidth=thick, **style)
        for value in np.unique(np.atleast_1d(np.asarray(sigma if sigma is not None else [], float))):
            axes.axhline(value, color="0.35", linestyle=":", linewidth=1.2, label=f"observation error {value:g}{shown}")
        axes.set(ylabel=f"analysis RMSE{f' [{unit}]' if shown else ''}{of}", title=panel if len(panels) > 1 else "")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(which="both", color="0.92", linewidth=0.6)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    all_axes[-1].set_xlabel("time [day]")
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def snapshot(path: str | Path, truths: Mapping, analyses: Mapping, length: float, title: str = "") -> None:
    """Truth, analysis and error of every experiment at one boundary and time, a row an experiment.

    Args:
        path: figure to write.
        truths: name -> temperature `(N, N)` in K, or a Lorenz-96 state `(d,)`.
        analyses: name -> ensemble mean of the same shape and unit; experiments that went non-finite left out.
        length: side of the square [m].
        title: line above the figure.
    """
    any_truth = next(iter(truths.values()))
    if any_truth.ndim == 1:
        return _state_lines(path, truths, analyses, title)
    figure = Figure(figsize=(9.0, 2.7 * len(analyses) + 0.5), layout="constrained")
    rows = figure.subplots(len(analyses), 3, squeeze=False, sharex=True, sharey=True)
    limit = float(np.abs(any_truth).max())
    for (name, mean), row in zip(analyses.items(), rows, strict=True):
        field_row(figure, row, truths[name], mean, ("truth", name), limit, length)
    for axes in rows[-1]:
        axes.set_xlabel("x [1000 km]")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=110)


def field_row(figure: Figure, row, truth: np.ndarray, estimate: np.ndarray, names, limit: float, length: float) -> None:
    """Truth, estimate and error `(N, N)` in K on three axes, the first two with colours from -limit to limit."""
    side, error = length / 1e6, estimate - truth
    error_limit = max(float(np.quantile(np.abs(error), 0.999)), 1e-12)
    of_error = f"error, RMS {np.sqrt(np.mean(error**2)):.2f} K"
    panels = (
        (names[0], truth, limit, "RdBu_r"),
        (names[1], estimate, limit, "RdBu_r"),
        (of_error, error, error_limit, "PuOr"),
    )
    for axes, (label, field, bound, colours) in zip(row, panels, strict=True):
        picture = axes.imshow(
            field, origin="lower", extent=(0, side, 0, side), vmin=-bound, vmax=bound, cmap=colours, aspect="equal"
        )
        axes.set_title(label, fontsize="medium")
        figure.colorbar(picture, ax=axes, label="K", shrink=0.9)
    row[0].set_ylabel("y [1000 km]")


def _state_lines(path, truths, analyses, title) -> None:
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes = figure.subplots()
    shown = slice(0, 100)
    different = {}  # with the first experiment that sees it
    for name, truth in truths.items():
        different.setdefault(truth.tobytes(), name)
    for grey, name in zip(("black", "0.6"), different.values(), strict=False):  # with and without shocks
        label = "truth" if len(different) == 1 else f"truth of {name}"
        axes.plot(truths[name][shown], color=grey, linewidth=2.0, label=label)
    for i, (name, mean) in enumerate(analyses.items()):
        axes.plot(mean[shown], color=COLOURS[i % len(COLOURS)], linewidth=1.1, label=name)
    axes.set(xlabel="variable", ylabel="x")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=130)


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
        axes.plot(x[~lost], scores[~lost], "o", color=COLOURS[0], markersize=4, alpha=0.6)
        if lost.any():
            axes.plot(x[lost], np.full(lost.sum(), top), "x", color="0.35", label="lost the truth")
        if not lost[0]:
            axes.plot(x[:1], scores[:1], "*", color=COLOURS[1], markersize=13, label=f"best, {scores[0]:.3g}")
        axes.set_xlabel(field)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[::columns]:
        axes.set_ylabel(f"analysis RMSE{f' [{unit}]' if unit != '1' else ''}")
    for axes in panels[len(fields) :]:
        axes.set_visible(False)
    panels[0].legend(frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


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
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def of_run(folder: Path, config, records: Mapping, hours: np.ndarray, truths: Mapping, means: Mapping) -> None:
    """All figures of a twin experiment: `rmse.png` and a `snapshot` of its last cycle, one a boundary.

    Args:
        folder: made if it is not there.
        config: of the experiment (`jaxda.config.ExperimentConfig`); rows without its shocks have a panel of their own.
        records: name -> record, hours: times (T,) [h].
        truths: name -> its last true state `(*shape)`, in the unit of the states.
        means: name -> last analysis mean, the same; experiments that went non-finite left out.
    """
    folder.mkdir(exist_ok=True)
    sigma = config.observations.sigma if config.observations.operator != "arctan" else None
    shocked = lambda name: config.filters[name].shocks or config.shocks.kind == "none"  # then there is one truth
    with_shocks = {name: record for name, record in records.items() if shocked(name)}
    without = {name: record for name, record in records.items() if name not in with_shocks}
    panels = {name: own for name, own in {"with shocks": with_shocks, "without shocks": without}.items() if own}
    rmse_against_time(folder / "rmse.png", panels, hours, config.unit, sigma, config.title)
    means = {name: config.kelvin * mean for name, mean in means.items() if np.isfinite(mean).all()}
    truths = {name: config.kelvin * truths[name] for name in means}
    if not means:
        return
    title = f"{config.title}, day {hours[-1] / 24:g}"
    if len(config.model.shape) == 1:
        return snapshot(folder / "snapshot.png", truths, means, 0.0, title)
    for level, boundary in enumerate(("lower", "upper")):
        at = lambda states, level=level: {name: state[level] for name, state in states.items()}
        name = folder / f"snapshot_{boundary}.png"
        snapshot(name, at(truths), at(means), config.model.L, f"{title}, {boundary} boundary")
