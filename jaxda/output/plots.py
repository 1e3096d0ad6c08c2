"""Figures, drawn without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

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
    # The line is as long as the range that is neither forced by the jet nor damped, and lies above the curves.
    line = np.array([3.0, max(4.0, len(energy) / 3.0)])
    through = np.max([e[3 : len(e) // 3 + 1] / np.arange(3, len(e) // 3 + 1) ** (-5 / 3) for e in energies.values()])
    axes.loglog(line, 1.5 * through * line ** (-5 / 3), color="0.45", linewidth=1.2, label="slope −5/3")
    axes.set(xlabel="wavenumber [cycles in the side of the square]", ylabel="kinetic energy of a wavenumber [m²/s²]")
    kilometres = length / 1000.0
    to_length = lambda x: kilometres / np.maximum(x, 1e-9)
    axes.secondary_xaxis("top", functions=(to_length, to_length)).set_xlabel("wavelength [km]")
    axes.grid(which="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)
