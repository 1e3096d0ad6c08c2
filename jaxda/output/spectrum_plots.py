"""Spectra: kinetic energy of a nature run; truth, mean, error and spread of analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxda.output import style

#: colour, line and width of each of `jaxda.diagnostics.PARTS`
PART_LINES = {
    "truth": ("black", "-", 2.2),
    "mean": (style.COLOURS[0], "--", 1.5),
    "error": (style.COLOURS[1], "-", 1.5),
    "spread": (style.COLOURS[2], "-.", 1.5),
}
#: behind words on curves
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


def _slope(axes, spectra: Sequence[np.ndarray]) -> None:
    """A line over the waves that are neither forced by the jet nor damped, above the curves."""
    inertial = np.arange(3, max(5, len(spectra[0]) // 2))
    height = max(np.max(np.asarray(own)[inertial] * inertial ** (5 / 3)) for own in spectra)
    line = {"color": "0.4", "linewidth": 1.2, "label": "slope \N{MINUS SIGN}5/3"}
    axes.loglog(inertial, 1.3 * height * inertial ** (-5 / 3), **line)


def _octaves(count: int) -> np.ndarray:
    return 2.0 ** np.arange(int(np.log2(count)) + 1)


def spectrum(path: str | Path, energies: Mapping[str, np.ndarray], length: float, title: str = "") -> None:
    """Kinetic energy against wavenumber, with a line of slope -5/3 through the middle of the spectra.

    Args:
        path: figure to write, ending in one of style.FORMATS; replaced if it exists.
        energies: name -> energy of each integer wavenumber 0 ... n/2, `(n/2 + 1,)` in m^2/s^2. The mean (0) and the
            last ring, which holds the corners too, are not drawn.
        length: side of the square [m].
        title: line above the figure.
    """
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, energy) in enumerate(energies.items()):
        wavenumber = np.arange(1, len(energy) - 1)
        own = {"color": style.COLOURS[i % len(style.COLOURS)], "linestyle": style.LINES[i % len(style.LINES)]}
        axes.loglog(wavenumber, energy[1:-1], label=name, linewidth=1.8, **own)
    _slope(axes, list(energies.values()))
    axes.set(xlabel="wavenumber [waves along a side]", ylabel="kinetic energy at each wavenumber [m²/s²]")
    octaves = _octaves(len(energy))
    to_length = lambda x: length / 1000.0 / np.maximum(x, 1e-9)
    top = axes.secondary_xaxis("top", functions=(to_length, to_length))
    top.set_xlabel("wavelength [km]")
    for axis, ticks in ((axes.xaxis, octaves), (top.xaxis, to_length(octaves))):
        axis.set_ticks(ticks, [f"{tick:.5g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    style.grid(axes)
    axes.legend(frameon=False)
    style.save(figure, path, title)


def of_parts(
    path: str | Path,
    spectra: Mapping[str, np.ndarray],
    resolved: Mapping[str, float],
    length: float,
    label: str,
    title: str = "",
) -> None:
    """Spectra of truth, mean, error and spread, a panel an experiment, with the wavelength that it resolves.

    Args:
        path: figure to write.
        spectra: name -> `(4, N/2 + 1)`, parts as in `jaxda.diagnostics.PARTS`; the first and last rings are not drawn.
        resolved: name -> effective wavelength, in the unit of `length`, a vertical line.
        length: side of the square [m].
        label: of the vertical axis, with its unit.
        title: line above the figure.
    """
    figure, panels = style.panels(len(spectra), 2.9, 2.7, sharex=True, sharey=True)
    for axes, (name, own) in zip(panels, spectra.items(), strict=True):
        wave = np.arange(1, own.shape[1] - 1)
        for (part, (colour, line, width)), values in zip(PART_LINES.items(), own, strict=True):
            drawn = np.where(values > 0, values, np.nan)[1:-1]
            axes.loglog(wave, drawn, color=colour, linestyle=line, linewidth=width, label=part)
        _slope(axes, [own[0]])
        if np.isfinite(resolved[name]):
            axes.axvline(length / resolved[name], color="0.5", linestyle=":", linewidth=1.2)
        said = f"{resolved[name] / 1000:.0f} km" if np.isfinite(resolved[name]) else "nothing"
        axes.text(0.04, 0.05, f"resolved: {said}", transform=axes.transAxes, fontsize="small", color="0.3", bbox=BOX)
        axes.set_title(name, fontsize="medium")
        octaves = _octaves(own.shape[1])
        axes.xaxis.set_ticks(octaves, [f"{tick:g}" for tick in octaves])
        axes.xaxis.set_minor_locator(NullLocator())
        style.grid(axes)
    every = np.stack(list(spectra.values()))[:, :, 1:-1]
    truth = every[:, 0]
    if np.isfinite(truth).all() and truth.min() > 0:  # errors may be as small as rounding
        low = max(np.nanmin(every[:, 2:], initial=np.inf), 1e-4 * truth.min())
        panels[0].set_ylim(0.1 * low, 6.0 * truth.max())  # with room for words below the curves
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False)
    style.label_below(panels, "waves along a side")
    figure.supylabel(label, fontsize="medium")
    style.save(figure, path, title)
