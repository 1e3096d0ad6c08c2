"""Tables of a report: heads and rows of cells, each with what is shown and what it is sorted by."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxda.output.findings import last_third, status_of
from jaxda.output.run_folder import FORECAST, REALTIME, TRAINING, TWIN, RunFolder, flat, number


class Cell(NamedTuple):
    """What is shown, and what it is sorted by: a number or the text."""

    text: str
    key: float | str


class Table(NamedTuple):
    """Name, heads (each with an explanation) and rows of cells."""

    name: str
    heads: tuple[tuple[str, str], ...]
    rows: list[list[Cell]]


#: rows of a table that a page shows; the files have all
MOST = 400


def text(value: object) -> Cell:
    """A cell of words, or of a setting."""
    shown = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return Cell(shown, shown.lower())


def cell(value: object, digits: str = ".3f") -> Cell:
    """A cell of a number; a dash, last in order, where it is none."""
    found = number(value)
    return Cell(format(found, digits), found) if math.isfinite(found) else Cell("-", math.inf)


def scores(runs: Sequence[tuple[str, RunFolder]]) -> Table | None:
    """RMSE over all cycles, all else over the last third, as `scripts/osse.py` prints it; from scores.csv alone."""
    twins = [(label, run) for label, run in runs if run.kind == TWIN and run.scores]
    if not twins:
        return None
    units = {run.unit for _, run in twins}
    unit = f" [{min(units)}]" if units == {"K"} else ""
    several = len(runs) > 1
    everything = [own for _, run in twins for own in run.scores.values()]
    counts = [column for column in ("rejected", "replaced") if any(_total(own, column) for own in everything)]
    heads = [("run", "folder")] if several else []
    heads += [
        ("experiment", ""),
        (f"RMSE{unit}", "of the analysis mean, all cycles"),
        (f"RMSE, last third{unit}", "of the analysis mean"),
        ("spread/RMSE", "last third; a reliable ensemble has 1"),
        (f"CRPS{unit}", "fair, last third"),
        (f"forecast RMSE{unit}", "of the forecast mean, last third"),
        ("s/cycle", "median after compiling"),
        *((name, "all cycles") for name in counts),
        *([("unit", "of the scores")] if len(units) > 1 else []),
        ("cycles", "that were done"),
        ("status", ""),
    ]
    rows = []
    for label, run in twins:
        for name, own in run.scores.items():
            get = lambda column, own=own: own.get(column, np.zeros(0))
            error, series = last_third(get("rmse_a")), get("rmse_a")
            ratio = last_third(get("spread_a")) / error if error else math.nan
            rows.append(
                [
                    *([text(label)] if several else []),
                    text(name),
                    cell(series.mean() if len(series) else math.nan),
                    *map(cell, (error, ratio, last_third(get("crps_a")), last_third(get("rmse_b")))),
                    cell(run.summary.get(name, {}).get("seconds_per_cycle"), ".3g"),
                    *(cell(_total(own, c), ".0f") for c in counts),
                    *([text(run.unit)] if len(units) > 1 else []),
                    cell(len(series), ".0f"),
                    text(status_of(run, name)),
                ]
            )
    return Table("Scores", tuple(heads), rows)


def _total(own: dict, column: str) -> float:
    return float(np.nansum(own.get(column, np.zeros(0))))


def timings(run: RunFolder) -> Table | None:
    """How long the parts of a run took."""
    rows = []
    if run.kind == TWIN:
        heads = (("experiment", ""), ("seconds", "all cycles, with compiling"), ("s/cycle", "median after compiling"))
        for name, own in run.summary.items():
            rows.append([text(name), cell(own.get("wall_seconds"), ".1f"), cell(own.get("seconds_per_cycle"), ".3g")])
    elif run.kind == REALTIME:
        status = run.tables.get("status.csv", [])
        heads = (("stage", ""), ("median [s]", "of the cycles"), ("longest [s]", ""))
        for column in [name for name in (status[0] if status else ()) if name.endswith("_s") and name != "lateness_s"]:
            values = [number(row[column]) for row in status]
            values = [value for value in values if math.isfinite(value)] or [math.nan]
            rows.append([text(column[:-2]), cell(statistics.median(values)), cell(max(values))])
    elif run.kind == TRAINING:
        heads = (("step", ""), ("seconds", "since the start"), ("samples/s", ""))
        for row in run.tables.get("log.csv", []):
            part = [row.get(name) for name in ("step", "seconds", "samples_per_second")]
            rows.append([cell(part[0], ".0f"), cell(part[1], ".1f"), cell(part[2], ".1f")])
    return Table("Timings", heads, rows[:MOST]) if rows else None


def files(run: RunFolder) -> list[Table]:
    """The tables of a run as they are on the disk, but for the scores of each cycle."""
    names = {"status.csv": "Cycles", "events.csv": "Events", "log.csv": "Validations", "trials.csv": "Trials"}
    names |= {"scores.csv": "Scores by lead"} if run.kind == FORECAST else {}
    return [_as_it_is(f"{names[name]}", rows) for name, rows in run.tables.items() if name in names and rows]


def _as_it_is(name: str, rows: list[dict[str, str]]) -> Table:
    heads = tuple((column.replace("_", " "), "") for column in rows[0])
    one = lambda value: cell(value, ".4g") if value == "nan" or math.isfinite(number(value)) else text(value)
    more = f" (the first {MOST} of {len(rows)})" if len(rows) > MOST else ""
    return Table(name + more, heads, [[one(value) for value in row.values()] for row in rows[:MOST]])


def settings(runs: Sequence[tuple[str, RunFolder]], different: bool = False) -> Table | None:
    """Every setting by its dotted name, a column a run; only what is not the same in all where `different`."""
    trees = [flat(run.settings) for _, run in runs]
    names = dict.fromkeys(name for tree in trees for name in tree)
    unequal = lambda name: any(name not in tree or tree[name] != trees[0].get(name) for tree in trees)
    rows = [
        [text(name), *(text(tree[name]) if name in tree else Cell("-", "") for tree in trees)]
        for name in names
        if not different or unequal(name)
    ]
    heads = (("setting", ""), *((label if len(runs) > 1 else "value", "") for label, _ in runs))
    return Table("What differs" if different else "Settings", heads, rows) if rows else None


def record(run: RunFolder) -> Table | None:
    """What would make the numbers again, a column a start."""
    entries = run.records[-4:]
    about = [_one_start(entry) for entry in entries]
    names = dict.fromkeys(name for one in about for name in one)
    heads = (("", ""), *((f"start {len(run.records) - len(entries) + i + 1}", "") for i in range(len(entries))))
    rows = [[text(name), *(text(one.get(name, "-")) for one in about)] for name in names]
    return Table("Reproducibility record", heads, rows) if rows else None


def _one_start(entry: dict) -> dict[str, str]:
    part = lambda name: entry[name] if isinstance(entry.get(name), dict) else {}
    git, seeds = part("git"), part("seeds")
    changed = {True: "yes", False: "no"}.get(git.get("changed"), "not known")
    shown = {"started": entry.get("started", "-"), "commit": git.get("commit") or "not known"}
    shown |= {"files changed": changed}
    shown |= {str(name): str(value) for name, value in part("versions").items()}
    return {k: str(v) for k, v in shown.items()} | {f"seed {k}": str(v) for k, v in seeds.items()}


def commands(run: RunFolder) -> list[str]:
    """The command line of each start, and one that makes the run again from the settings in its folder."""
    found = [f"python scripts/{entry['command']}" for entry in run.records if isinstance(entry.get("command"), str)]
    script = {TWIN: "osse.py", TRAINING: "train_vit.py"}.get(run.kind)
    if script and (run.path / "config.toml").is_file():
        found.append(f"python scripts/{script} {run.path / 'config.toml'} --out NEW_FOLDER")
    return list(dict.fromkeys(found))
