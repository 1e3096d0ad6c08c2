"""One self-contained HTML file about one run, or several side by side: nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import jinja2

from jaxda import __version__
from jaxda.output import findings, run_folder, table_plots, tabled
from jaxda.output.atomic import replacing
from jaxda.output.run_folder import RunFolder

PNG = b"\x89PNG\r\n\x1a\n"
#: larger figures are left out of the page [bytes]
LARGEST = 2**24
#: name of a figure's file -> what it shows
CAPTIONS = {
    "rmse": "Error of the analysis mean of every experiment, with the error of the observations as a line",
    "ranks": "Ranks of the truth among the members: flat where they are draws from the same distribution",
    "spread_skill": "Errors against the spread that should tell them",
    "spectra_temperature": "Variance of the temperature by wavenumber",
    "spectra_energy": "Kinetic energy by wavenumber",
    "plume": "Members at one point against time",
    "training": "Loss, learning rate and error of the validation against the step",
    "snapshot": "Last analysis of every experiment beside its truth",
    "snapshot_lower": "Truth, observations; mean, error and spread of every experiment, last cycle, lower boundary",
    "snapshot_upper": "Truth, observations; mean, error and spread of every experiment, last cycle, upper boundary",
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
        differences={kind: tabled.settings(group, different=True) for kind, group in _alike(runs).items()},
        version=__version__,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    with replacing(path) as hidden:
        hidden.write_text(page, encoding="utf-8")
    return [f"{label}: {line}" for label, run in runs for line in run.missing]


def _alike(runs: Sequence[tuple[str, RunFolder]]) -> dict[str, list[tuple[str, RunFolder]]]:
    """Runs of each kind of which there are several: those of two kinds differ in every setting."""
    kinds = dict.fromkeys(run.kind for _, run in runs)
    groups = {kind: [(label, run) for label, run in runs if run.kind == kind] for kind in kinds}
    return {kind: group for kind, group in groups.items() if len(group) > 1}


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
    stored = sorted(run.figures, key=lambda path: [*CAPTIONS, path.stem].index(path.stem))
    figures = [figure for path in stored if (figure := _stored(path, run.missing))]
    if not figures and (data := table_plots.of_run(run)):
        figures = [_figure(data, f"Drawn from {next(iter(run.tables))}")]
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
