"""One self-contained HTML file about one run, or several side by side: nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jinja2
import numpy as np

from jaxda import __version__
from jaxda.output import findings, plots, run_folder, tabled
from jaxda.output.atomic import replacing
from jaxda.output.run_folder import REALTIME, TRAINING, TWIN, RunFolder, number

PNG = b"\x89PNG\r\n\x1a\n"
#: larger figures are left out of the page [bytes]
LARGEST = 2**24
#: name of a figure's file -> what it shows
CAPTIONS = {
    "rmse": "Error of the analysis mean of every experiment, with the error of the observations as a line",
    "snapshot": "Last analysis of every experiment beside its truth",
    "snapshot_lower": "Truth, analysis mean and error of every experiment at its last cycle, lower boundary",
    "snapshot_upper": "Truth, analysis mean and error of every experiment at its last cycle, upper boundary",
    "scores": "Scores by lead",
    "spectra": "Variance of the temperature by wavenumber: truth, forecast and error",
    "snapshots": "Truth, forecast and error at some leads",
    "figure": "Score of every trial against each value that was searched",
}


class Figure(NamedTuple):
    """A figure as a page holds it: base64 of a PNG, and its caption."""

    data: str
    caption: str


class Part(NamedTuple):
    """What a page says of one run."""

    label: str
    run: RunFolder
    warnings: list[str]
    figures: list[Figure]
    tables: list[tabled.Table]
    details: list[tabled.Table]
    commands: list[str]


def write(path: str | Path, folders: Sequence[str | Path]) -> list[str]:
    """Write a page about the runs in `folders`; returns what they lack, a line each.

    Raises:
        ValueError: a folder that holds no run, or comes twice.
        FileError: the page cannot be written.
    """
    places = [Path(folder).resolve() for folder in folders]
    twice = next((folder for folder, own in zip(folders, places) if places.count(own) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice}: is given twice; leave one out")
    runs = list(zip(labels(places), [run_folder.read(folder) for folder in folders], strict=True))
    parts = [_part(label, run) for label, run in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxda.output"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        title=runs[0][1].title if len(runs) == 1 else f"{len(runs)} runs",
        parts=parts,
        scores=tabled.scores(runs),
        differences=tabled.settings(runs, different=True) if len(runs) > 1 else None,
        version=__version__,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    with replacing(path) as hidden:
        hidden.write_text(page, encoding="utf-8")
    return [f"{label}: {line}" for label, run in runs for line in run.missing]


def labels(places: Sequence[Path]) -> list[str]:
    """Short names of folders that differ: their last parts, as many as that takes."""
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def _part(label: str, run: RunFolder) -> Part:
    tables = [table for table in (tabled.timings(run), *tabled.files(run)) if table]
    details = [table for table in (tabled.settings([(label, run)]), tabled.record(run)) if table]
    figures = [figure for path in run.figures if (figure := _stored(path, run.missing))]
    figures = figures or drawn(run)
    return Part(label, run, findings.of_run(run), figures, tables, details, tabled.commands(run))


def _stored(path: Path, missing: list[str]) -> Figure | None:
    """A figure of the run's folder; None, with a line in `missing`, where it is none."""
    try:
        size, data = path.stat().st_size, b""
        if path.is_file() and size <= LARGEST:
            data = path.read_bytes()
    except OSError:
        size, data = 0, b""
    if not data.startswith(PNG):
        missing.append(f"{path.name}: {'too large' if size > LARGEST else 'no PNG, or not whole'}, left out")
        return None
    return _figure(data, CAPTIONS.get(path.stem, path.stem.replace("_", " ")))


def _figure(data: bytes, caption: str) -> Figure:
    return Figure(base64.b64encode(data).decode(), caption)


# Figures of runs that have none


def drawn(run: RunFolder) -> list[Figure]:
    """Figures made of a run's tables."""
    found = io.BytesIO()
    if run.kind == TWIN:
        scores = {name: own for name, own in run.scores.items() if np.isfinite(own.get("rmse_a", [])).any()}
        size = max((len(own["rmse_a"]) for own in scores.values()), default=0)
        hours = run.times[:size]
        if not scores or len(hours) < size:
            return []
        padded = lambda values: np.append(values, np.full(size - len(values), np.nan))
        series = {_plain(name): SimpleNamespace(rmse_a=padded(own["rmse_a"])) for name, own in scores.items()}
        records = {name: SimpleNamespace(scores=own) for name, own in series.items()}
        plots.rmse_against_time(found, {"": records}, hours, run.unit, _sigma(run), _plain(run.title))
        return [_figure(found.getvalue(), "Error of the analysis mean, drawn from scores.csv")]
    if run.kind == REALTIME:
        rows = run.tables.get("status.csv", [])
        names = {"innovation_rms": "innovation", "expected_rms": "innovation that spread and errors promise"}
        names |= {"spread_b": "spread of the forecast", "spread_a": "spread of the analysis"}
        where = ("time_h", 24.0, "time [day]", f"RMS [{run.unit}]")
    elif run.kind == TRAINING:
        rows = run.tables.get("log.csv", [])
        names = {"rmse_1": "RMSE after one lead", "persistence_1": "persistence"}
        where = ("step", 1.0, "step", f"RMSE [{run.unit}]")
    else:
        return []
    column, scale, *axes = where
    x = np.array([number(row.get(column)) for row in rows]) / scale
    lines = {name: np.array([number(row.get(key)) for row in rows]) for key, name in names.items()}
    lines = {name: values for name, values in lines.items() if np.isfinite(values).any()}
    if not lines:
        return []
    _curves(found, x, lines, *axes, _plain(run.title))
    return [_figure(found.getvalue(), f"Drawn from {next(iter(run.tables))}")]


def _plain(words: str) -> str:
    """Words for a figure: Matplotlib takes what is between dollars for a formula, and raises where it is none."""
    return words.replace("$", r"\$")


def _sigma(run: RunFolder) -> list[float]:
    """Standard deviations of the observations' errors, where they have the unit of the scores."""
    own = run.settings.get("observations")
    if not isinstance(own, dict) or own.get("operator") == "arctan":
        return []
    sigma = own.get("sigma")
    return [value for value in map(number, sigma if isinstance(sigma, list) else [sigma]) if 0 < value < np.inf]


def _curves(path, x: np.ndarray, lines: dict[str, np.ndarray], xlabel: str, ylabel: str, title: str) -> None:
    figure = plots.Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour, style in zip(lines.items(), plots.COLOURS, plots.LINES, strict=False):
        axes.plot(x, values, color=colour, linestyle=style, marker="o", markersize=3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.grid(color="0.92", linewidth=0.6)
    axes.legend(frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=130)
