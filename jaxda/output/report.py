"""Scores as CSV, JSON and a table on the terminal."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import platform
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from jaxda import text_files
from jaxda.output.atomic import replacing

COLUMNS = ("rmse_b", "rmse_a", "spread_b", "spread_a", "crps_a", "bias_a", "coverage_a", "chi_square")
#: of observations, of members, and of cycles
COUNTS = ("rejected", "replaced", "lost", "flagged")


def new_folder(path: Path) -> Path:
    """The output folder, which must not hold another run.

    Raises:
        ValueError: it does, or it cannot be made.
    """
    left = lambda own: own.name.startswith(".") and own.suffix == ".part"  # of a run that was killed before it began
    if path.exists() and (not path.is_dir() or not all(map(left, path.iterdir()))):
        raise ValueError(f"{path}: is not an empty folder; give another --out, or move it away")
    return may_write(path)


def may_write(path: Path) -> Path:
    """The folder, which is there or can be made, and files in it.

    Raises:
        ValueError: it cannot.
    """
    above = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
    try:  # permissions do not tell it: file systems may be read-only, and root has all of them
        Path(tempfile.mkdtemp(prefix=".", dir=above)).rmdir()
    except OSError:
        raise ValueError(f"{path}: {above} is not a folder that may be written; give another --out") from None
    return path


def new_file(flag: str, path: Path | None) -> None:
    """Raise ValueError unless `path`, which `flag` gives, is a file or could become one."""
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ValueError(f"{flag} {path}: is a folder, or in none; give a file in a folder that exists")


def write_scores(folder: Path, records: Mapping[str, object], interval_hours: float) -> None:
    """Write scores.csv and, where something learnt, online.csv: a row for each experiment and cycle.

    The rows have the experiment, its cycle, its time [h], and the scores of COLUMNS and COUNTS or the fields of
    `training.online.Learned`.
    """
    _write_series(folder / "scores.csv", (*COLUMNS, *COUNTS), {n: r.scores for n, r in records.items()}, interval_hours)
    learned = {name: record.learned for name, record in records.items() if record.learned is not None}
    if learned:
        _write_series(folder / "online.csv", next(iter(learned.values()))._fields, learned, interval_hours)


def _write_series(path: Path, columns: Sequence[str], series: Mapping[str, object], interval_hours: float) -> None:
    with replacing(path) as hidden, hidden.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("experiment", "cycle", "time_h", *columns))
        for name, own in series.items():
            for i, row in enumerate(zip(*(getattr(own, column) for column in columns), strict=True)):
                values = (
                    f"{value:.0f}" if c in COUNTS else f"{value:.6g}" for c, value in zip(columns, row, strict=True)
                )
                writer.writerow((name, i, i * interval_hours, *values))


def summary(records: Mapping[str, object]) -> dict[str, dict]:
    """Means over all cycles and over the last third, status, rejections and times of each record, for JSON."""
    rows = {}
    for name, record in records.items():
        rows[name] = {
            "status": record.status,
            "all": {column: _number(record.mean(column)) for column in COLUMNS},
            "last_third": {column: _number(record.mean(column, 1 / 3)) for column in COLUMNS},
            **{count: record.total(count) for count in COUNTS},
            "wall_seconds": round(record.seconds, 3),
            "seconds_per_cycle": round(record.seconds_per_cycle, 4),
        }
    return rows


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None  # JSON has no NaN


def versions() -> dict[str, str]:
    """Versions of what computed the numbers, and the device."""
    packages = ("jaxda", "jax", "jaxlib", "numpy", "netCDF4")
    found = {package: importlib.metadata.version(package) for package in packages}
    device = jax.devices()[0]
    return found | {"python": platform.python_version(), "device": f"{device.device_kind} x {jax.device_count()}"}


def write_json(path: str | Path, records: Mapping[str, object], settings: dict) -> None:
    """Write scores, settings and versions."""
    content = {"scores": summary(records), "settings": plain(settings), "versions": versions()}
    with replacing(path) as hidden:
        hidden.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def plain(tree):
    """Settings with infinite lengths as text: JSON has no inf."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    return "inf" if tree == float("inf") else tree


def score_table(title: str, records: Mapping[str, object], unit: str) -> Table:
    """The table that a run prints: RMSE over all cycles, everything else over the last third of them.

    spread/RMSE is mean spread over mean RMSE: a reliable ensemble of M members has sqrt(M/(M + 1)), see
    `jaxda.diagnostics.mean_spread`. How many observations were rejected, members replaced because they were not finite
    or their forecast had failed, or lost for good, and cycles flagged as diverging, is shown where any were.
    """
    counts = [count for count in COUNTS if any(record.total(count) for record in records.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("experiment")
    for column in (f"RMSE [{unit}]", f"RMSE, last third [{unit}]", "spread/RMSE", f"CRPS [{unit}]"):
        table.add_column(column, justify="right")
    table.add_column(f"forecast RMSE [{unit}]", justify="right")
    table.add_column("s/cycle", justify="right")
    for count in counts:
        table.add_column(count, justify="right")
    table.add_column("status")
    for name, record in records.items():
        numbers = (
            record.mean("rmse_a"),
            record.mean("rmse_a", 1 / 3),
            ratio(record.mean("spread_a", 1 / 3), record.mean("rmse_a", 1 / 3)),
            record.mean("crps_a", 1 / 3),
            record.mean("rmse_b", 1 / 3),
        )
        ends = [*(str(record.total(count)) for count in counts), record.status]
        table.add_row(name, *(f"{n:.3f}" for n in numbers), f"{record.seconds_per_cycle:.3f}", *ends)
    return table


def notices(name: str, chunk: object, faults: object) -> dict[str, str]:
    """What has to be said of some cycles of a filter: where it is `flagged` first, and where it `ended`.

    Args:
        chunk: of `jaxda.experiment`; faults: its settings.
    """
    said, scores = {}, chunk.scores
    flagged, lost = (series.nonzero()[0] for series in (scores.flagged == 1, ~scores.finite))
    if len(flagged):
        at = flagged[0]
        why = f"chi_square = {scores.chi_square[at]:.3g}, forecast RMSE = {scores.rmse_b[at]:.3g}"
        what = {"none": "nothing is done, see faults.recovery", "inflate": "inflated", "recentre": "recentred"}
        said["flagged"] = f"{name}: cycle {chunk.first + at} diverges, {why}: {what[faults.recovery]}"
    if len(lost):
        at = lost[0]
        limit = f"{scores.lost[at]:.0f} members are not finite, over faults.replaced_limit = {faults.replaced_limit:g}"
        why = limit if scores.lost[at] else "its errors are not finite"
        kept = f"it ends, what was before cycle {chunk.first} is kept"
        cure = "use more inflation or members, a smaller model.dt, or a larger limit"
        said["ended"] = f"{name}: cycle {chunk.first + at}: {why}; {kept}; {cure}"
    return said


def trial_table(title: str, trials: Iterable[object], unit: str) -> Table:
    """The table that a search prints: a row for each trial (`jaxda.tuning.Trial`), in their order."""
    trials = list(trials)
    table = Table(title=title, title_justify="left")
    for field in trials[0].values:
        table.add_column(field, justify="right")
    table.add_column(f"RMSE [{unit}]", justify="right")
    table.add_column("s", justify="right")
    table.add_column("status")
    for trial in trials:
        values = (str(value) for value in trial.values.values())
        table.add_row(*values, f"{trial.score:.4f}", f"{trial.seconds:.1f}", trial.status)
    return table


def forecast_table(title: str, scores: Mapping[str, Sequence[float]], leads: Iterable[int], lead_hours: float) -> Table:
    """The table that a forecast prints: a row a lead; `scores` of `jaxda.forecast.make_scores` by lead from 0 on."""
    columns = {
        "rmse": "RMSE [K]",
        "rmse_mean": "of the mean [K]",
        "spread": "spread [K]",
        "rmse_sqg": "SQG [K]",
        "rmse_mean_sqg": "SQG, mean [K]",
        "spread_sqg": "SQG, spread [K]",
        "persistence": "persistence [K]",
        "climatology": "climatology [K]",
        "correlation": "ACC",
        "persistence_correlation": "ACC of persistence",
    }
    shown = [name for name in columns if name in scores]
    table = Table(title=title, title_justify="left")
    for column in ("lead [h]", *(columns[name] for name in shown)):
        table.add_column(column, justify="right")
    for lead in leads:
        table.add_row(f"{lead * lead_hours:g}", *(f"{scores[name][lead]:.3f}" for name in shown))
    return table


def ratio(spread: float, error: float) -> float:
    """Spread over error, NaN where there is no error."""
    return spread / error if error else math.nan


def realtime_table(rows: Iterable[tuple[float, float, float]]) -> Table:
    """Errors of a real-time run: rows of time [h], RMSE [K] of an analysis and of the forecast from it, then means."""
    rows = list(rows)
    table = Table(title=f"{len(rows)} cycles", title_justify="left")
    for column in ("time [h]", "analysis RMSE [K]", "RMSE of the forecast from it [K]"):
        table.add_column(column, justify="right")
    means = ([value for value in column if math.isfinite(value)] for column in list(zip(*rows, strict=True))[1:])
    for first, *errors in [*rows, ("mean", *(statistics.fmean(values) if values else math.nan for values in means))]:
        table.add_row(first if isinstance(first, str) else f"{first:g}", *(f"{error:.3f}" for error in errors))
    return table


def last_scores(scores, unit: str) -> str:
    """RMSE and spread of the analyses, means over some cycles, in a few words for a progress bar."""
    rmse, spread = (statistics.fmean(map(float, series)) for series in (scores.rmse_a, scores.spread_a))
    return f"RMSE {rmse:.3f}, spread {spread:.3f} {unit}" if unit != "1" else f"RMSE {rmse:.3f}, spread {spread:.3f}"


def text_of(table: Table) -> str:
    """A table as text, of its own width."""
    console = Console(file=io.StringIO(), width=200, color_system=None, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def print_lines(lines: Iterable[object]) -> None:
    """Print tables and text to standard output, not wrapped where it is not a terminal."""
    console = Console(soft_wrap=True, markup=False)  # titles and folders may have brackets
    if not console.is_terminal:
        console = Console(width=140, markup=False)
    for line in lines:
        console.print(line, highlight=False)


# Several seeds


class Run(NamedTuple):
    """What the scores.json in `path` says: filter -> scores as in `summary`, and the settings."""

    path: Path
    scores: dict[str, dict]
    settings: dict


#: numbers that a table of seeds needs of every filter, as paths into its part of scores.json
NEEDED = [("all", "rmse_a"), *(("last_third", column) for column in ("rmse_a", "spread_a", "crps_a"))]
NEEDED += [("seconds_per_cycle",)]


def read_json(path: str | Path) -> Run:
    """The scores and settings of a run.

    Raises:
        ValueError: a file that is missing, not of a run, or without a score; with its name, the value and the cure.
    """
    path = Path(path)
    cure = "give the folder of a finished run of scripts/osse.py"
    try:
        content = text_files.read_json(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {cure}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {cure}") from None
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("scores", "settings")]
    for name, part in zip(("scores", "settings"), parts, strict=True):
        if not isinstance(part, dict) or not part:
            raise ValueError(f"{path}: {name} = {_short(part)} is not a table; {cure}")
    scores, settings = parts
    if not isinstance(settings.get("seed"), int):
        raise ValueError(f"{path}: settings.seed = {_short(settings.get('seed'))} is not a whole number; {cure}")
    for name, row in scores.items():
        if not isinstance(row, dict) or not isinstance(row.get("status"), str):
            raise ValueError(f"{path}: scores.{name} = {_short(row)} has no status; {cure}")
        for steps in NEEDED if row["status"] == "ok" else ():
            value = row
            for step in steps:
                value = value.get(step) if isinstance(value, dict) else None
            if not isinstance(value, int | float):
                where = ".".join(("scores", name, *steps))
                raise ValueError(f"{path}: {where} = {_short(value)} is not a number; run it again with this version")
    return Run(path, scores, settings)


def _short(value) -> str:
    return json.dumps(value)[:60]


def seed_tables(runs: Sequence[Run]) -> list[str]:
    """A Markdown table for each experiment among the runs: a row a filter, means over seeds and standard errors.

    Raises:
        ValueError: a seed that comes twice in one experiment.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = {name: value for name, value in run.settings.items() if name not in ("seed", "output")}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    return [_seed_table(group) for group in groups.values()]


def _seed_table(runs: list[Run]) -> str:
    first_with = {}
    for run in runs:
        other = first_with.setdefault(run.settings["seed"], run)
        if other is not run:
            raise ValueError(f"{run.path}: seed = {run.settings['seed']} is that of {other.path} too; leave one out")
    unit = "K" if runs[0].settings.get("model", {}).get("kind") == "sqg" else "1"
    columns = (f"RMSE [{unit}]", f"RMSE, last third [{unit}]", "spread/RMSE", f"CRPS [{unit}]", "s/cycle")
    heads = ("experiment", *columns, "seeds", "diverged")
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name in runs[0].scores:
        rows = [run.scores[name] for run in runs if name in run.scores]
        good = [row for row in rows if row["status"] == "ok"]
        numbers = (
            [row["all"]["rmse_a"] for row in good],
            [row["last_third"]["rmse_a"] for row in good],
            [ratio(row["last_third"]["spread_a"], row["last_third"]["rmse_a"]) for row in good],
            [row["last_third"]["crps_a"] for row in good],
            [row["seconds_per_cycle"] for row in good],
        )
        cells = (name, *map(_mean_and_error, numbers), str(len(rows)), str(len(rows) - len(good)))
        lines.append("| " + " | ".join(cells) + " |")
    title = runs[0].settings.get("title") or runs[0].path.parent.name
    return "\n".join([f"**{title}**", "", *lines])


def _mean_and_error(values: Sequence[float]) -> str:
    """Mean and standard error of the mean, sd / sqrt(n); a dash for no values."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"
