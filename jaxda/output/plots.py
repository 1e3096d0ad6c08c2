"""Figures, drawn without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

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
