"""How figures look: colours, lines, panels; figures need no display and none of pyplot's global state."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import IO

from matplotlib.figure import Figure
from matplotlib.text import Text

#: Okabe & Ito's colours, told apart by the colour-blind too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
#: Endings of figure files.
FORMATS = (".png", ".pdf", ".svg")


def of_number(i: int) -> dict[str, str]:
    """Colour and line of the i-th curve: another pair for each of the first 28."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % len(LINES)]}


def panels(count: int, width: float, height: float, columns: int = 4, **options) -> tuple[Figure, list]:
    """A figure of `count` panels in rows of up to `columns`, each `width` x `height` inches, and their axes."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 5.0), height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for beyond in axes.ravel()[count:]:
        beyond.set_visible(False)
        beyond.figure.delaxes(beyond)
    return figure, list(axes.ravel()[:count])


def label_below(panels: list, label: str, columns: int = 4) -> None:
    """Numbers and a label below the lowest panel of each column; where a row is short the one above has them."""
    for axes in panels[-min(columns, len(panels)) :]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(label)


def grid(axes) -> None:
    """Thin lines behind the curves."""
    axes.grid(which="both", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Figure, path: str | Path | IO[bytes], title: str = "", dpi: int = 150) -> None:
    """Write a figure, replaced if it exists, with a title above, in lines of its width.

    Titles and names are an experiment's: a dollar in them begins no formula.
    """
    if title:
        figure.suptitle(textwrap.fill(title, max(30, int(11 * figure.get_figwidth()))), fontsize="medium")
    for text in figure.findobj(Text):  # numbers at the axes get their text, with formulas, when it is drawn
        if "$" in text.get_text():
            text.set_parse_math(False)
    figure.savefig(path, dpi=dpi)
