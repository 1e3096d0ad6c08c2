"""Scores as CSV, JSON and a table on the terminal."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

COLUMNS = ("rmse_b", "rmse_a", "spread_b", "spread_a")


def append_scores(path: str | Path, experiment: str, first: int, interval_hours: float, scores) -> None:
    """Add one row a cycle to a CSV file: experiment, cycle, time_h and the four scores."""
    path = Path(path)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(("experiment", "cycle", "time_h", *COLUMNS))
        for i, row in enumerate(zip(*(getattr(scores, column) for column in COLUMNS), strict=True)):
            writer.writerow((experiment, first + i, (first + i) * interval_hours, *(f"{value:.6g}" for value in row)))


def summary(records: Mapping[str, object]) -> dict[str, dict]:
    """Means over all cycles and over the last third, status and times of each record, for JSON."""
    rows = {}
    for name, record in records.items():
        rows[name] = {
            "status": record.status,
            "all": {column: _number(record.mean(column)) for column in COLUMNS},
            "last_third": {column: _number(record.mean(column, 1 / 3)) for column in COLUMNS},
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
    content = {"scores": summary(records), "settings": _plain(settings), "versions": versions()}
    Path(path).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(tree):
    """Settings with infinite lengths as text: JSON has no inf."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return "inf" if tree == float("inf") else tree


def score_table(title: str, records: Mapping[str, object], unit: str) -> Table:
    """The table that a run prints: means over all cycles and over the last third."""
    table = Table(title=title, title_justify="left")
    table.add_column("experiment")
    for column in ("RMSE", "RMSE, last third", "spread", "forecast RMSE"):
        table.add_column(f"{column} [{unit}]", justify="right")
    table.add_column("s/cycle", justify="right")
    table.add_column("status")
    for name, record in records.items():
        numbers = (
            record.mean("rmse_a"),
            record.mean("rmse_a", 1 / 3),
            record.mean("spread_a", 1 / 3),
            record.mean("rmse_b", 1 / 3),
        )
        table.add_row(name, *(f"{n:.3f}" for n in numbers), f"{record.seconds_per_cycle:.3f}", record.status)
    return table


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


def print_lines(lines: Iterable[object]) -> None:
    """Print tables and text to standard output, not wrapped where it is not a terminal."""
    console = Console(soft_wrap=True, markup=False)  # titles and folders may have brackets
    if not console.is_terminal:
        console = Console(width=140, markup=False)
    for line in lines:
        console.print(line, highlight=False)
