"""Figures of a scale plan: memory by strategy, shares of the time, scaling with devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from jaxda.output.style import COLOURS, LINES, save


def memory(path: str | Path, found: Mapping[str, Mapping[str, Mapping[str, float]]], limit: float, title="") -> None:
    """Memory of a device, a panel a training, a bar a strategy, stacked by kind.

    Args:
        path: figure to write.
        found: training -> strategy -> kind -> bytes.
        limit: memory of a device [B], a line.
        title: line above the figure.
    """
    columns = max(len(strategies) for strategies in found.values())
    figure = Figure(figsize=(1.5 + max(0.72 * columns, 1.6) * len(found), 4.2), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    kinds = list(dict.fromkeys(kind for one in found.values() for parts in one.values() for kind in parts))
    kinds = [kind for kind in kinds if any(p.get(kind, 0) > 1e6 for one in found.values() for p in one.values())]
    for axes, (training, strategies) in zip(panels, found.items(), strict=True):
        bottom = np.zeros(len(strategies))
        for number, kind in enumerate(kinds):
            height = np.array([parts.get(kind, 0) / 1e9 for parts in strategies.values()])
            axes.bar(range(len(strategies)), height, 0.7, bottom, color=COLOURS[number % len(COLOURS)], label=kind)
            bottom += height
        axes.axhline(limit / 1e9, color="0.3", linestyle=":", linewidth=1.2, label=f"there is: {limit / 1e9:g} GB")
        for place, top in enumerate(bottom):
            axes.annotate(f"{top:.3g}", (place, top), (0, 2), textcoords="offset points", ha="center", fontsize="small")
        axes.set_xticks(range(len(strategies)), list(strategies), rotation=45, ha="right", fontsize="small")
        axes.set_title(training, fontsize="medium")
        axes.set_ylim(0, 1.12 * max(limit / 1e9, bottom.max()))
    panels[0].set_ylabel("memory of a device [GB]")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False, fontsize="small")
    save(figure, path, title, dpi=110)


def shares(path: str | Path, found: Mapping[str, Sequence[float]], title: str = "") -> None:
    """Shares of computing, communication and reading, a bar each.

    Args:
        path: figure to write.
        found: name of a bar -> its three shares [1].
        title: line above the figure.
    """
    figure = Figure(figsize=(8.0, 1.1 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(found))
    parts = ("computing", "communication that is not hidden", "reading")
    for number, (part, colour) in enumerate(zip(parts, COLOURS, strict=False)):
        width = np.array([three[number] for three in found.values()])
        axes.barh(range(len(found)), width, 0.7, left, color=colour, label=part)
        for place, (start, size) in enumerate(zip(left, width, strict=True)):
            if size > 0.04:
                style = {"ha": "center", "va": "center", "color": "white", "fontsize": "small"}
                axes.text(start + size / 2, place, f"{size:.3f}", **style)
        left += width
    axes.set_yticks(range(len(found)), list(found), fontsize="small")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of a step [1]")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    save(figure, path, title, dpi=110)


def scaling(path: str | Path, devices: Sequence[int], curves: Mapping[str, tuple], asked: float, title="") -> None:
    """Weak and strong efficiency and samples a second against devices.

    Args:
        path: figure to write.
        devices: their numbers.
        curves: name -> (efficiency with as many samples on each device, with as many in all [1], samples a second of
            the first); names that share what stands before their first comma share a colour.
        asked: efficiency to reach, a line [1].
        title: line above the figure.
    """
    figure = Figure(figsize=(12.5, 4.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    families: dict[str, int] = {}
    for name, (weak, strong, rate) in curves.items():
        family = name.split(",")[0]
        colour = COLOURS[list(families).index(family) if family in families else len(families)]
        style = {"color": colour, "linestyle": LINES[families.get(family, 0)], "marker": "o", "markersize": 3}
        families[family] = families.get(family, 0) + 1
        left.plot(devices, weak, label=name, **style)
        middle.plot(devices, strong, **style)
        right.plot(devices, rate, **style)
        ideal = np.asarray(devices) / devices[0] * rate[0]
        if families[family] == 1:
            right.plot(devices, ideal, color=colour, linewidth=0.7, alpha=0.5)
    for axes, label in ((left, f"published: {asked:g}"), (middle, None)):
        axes.axhline(asked, color="0.3", linestyle=":", linewidth=1.2, label=label)
        axes.set(ylabel=f"efficiency, {devices[0]} devices = 1", ylim=(0, 1.05))
    left.set_title("weak: as many samples on each device", fontsize="medium")
    middle.set_title(f"strong: the batch of {devices[-1]} devices on all", fontsize="medium")
    right.set_title("weak", fontsize="medium")
    right.set(ylabel="samples a second (thin: ideal)", yscale="log")
    for axes in (left, middle, right):
        _by_devices(axes, devices)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save(figure, path, title, dpi=110)


def analyses(path: str | Path, devices: Sequence[int], curves: Mapping[str, Sequence], ylabel: str, title="") -> None:
    """Time of an analysis against devices, each of them with as many members, a line a filter or size.

    Args:
        path: figure to write.
        devices: their numbers.
        curves: name -> times at each [s].
        ylabel: what the times are of.
        title: line above the figure.
    """
    figure = Figure(figsize=(6.4, 4.0 + 0.2 * len(curves)), layout="constrained")
    axes = figure.subplots()
    for number, (name, times) in enumerate(curves.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS) % len(LINES)]}
        axes.plot(devices, times, label=name, marker="o", markersize=3, **style)
    axes.set(ylabel=ylabel, yscale="log")
    _by_devices(axes, devices)
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    save(figure, path, title, dpi=110)


def _by_devices(axes, devices: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(devices, [str(number) for number in devices])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("devices")
    axes.grid(which="both", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def work(path: str | Path, found: Mapping[str, tuple[int, float]], rate: float, images: float, title: str = "") -> None:
    """Operations of a training, and the hours that a node would take, a bar a model.

    Args:
        path: figure to write.
        found: name -> parameters, operations [FLOP].
        rate: of a node [FLOP/s].
        images: that are trained on.
        title: line above the figure.
    """
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    operations = np.array([flop for _, flop in found.values()])
    axes.bar(range(len(found)), operations, 0.6, color=COLOURS[0])
    for place, (parameters, flop) in enumerate(found.values()):
        words = f"{parameters / 1e9:.2g} G parameters"
        axes.annotate(words, (place, flop), (0, 3), textcoords="offset points", ha="center", fontsize="small")
    axes.set_xticks(range(len(found)), list(found))
    axes.set(yscale="log", xlabel="grid points", ylabel=f"operations on {images:,.0f} images [FLOP]")
    axes.set_ylim(0.3 * operations.min(), 4.0 * operations.max())
    hours = lambda flop: np.asarray(flop) / (3600.0 * rate)
    right = axes.secondary_yaxis("right", functions=(hours, lambda own: np.asarray(own) * 3600.0 * rate))
    right.set_ylabel(f"node hours at {rate / 1e12:.3g} TFLOP/s [h]")
    save(figure, path, title, dpi=110)


def bandwidths(path: str | Path, found: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str = "") -> None:
    """Bus bandwidth of all-reduces against the message's size, a line a machine and number of devices.

    Args:
        path: figure to write.
        found: name -> sizes [B], bus bandwidths [B/s].
        title: line above the figure.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, (sizes, rates)) in enumerate(found.items()):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS) % len(LINES)]}
        axes.loglog(np.asarray(sizes) / 1e6, np.asarray(rates) / 1e9, label=name, marker="o", markersize=3, **style)
    axes.set(xlabel="message [MB]", ylabel="bus bandwidth of an all-reduce [GB/s]")
    axes.grid(which="both", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    save(figure, path, title, dpi=110)
