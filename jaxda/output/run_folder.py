"""What is in the folder of a run, of any kind, finished or not, of this version or another: all of it that can be read.

Nothing is believed: a table that ends in the middle of a row loses that row, and what cannot be read at all is said in
`missing`, beside what is not there.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxda import __version__, text_files

TWIN, REALTIME, TRAINING, FORECAST, SEARCH = "twin experiment", "real-time run", "training", "forecast", "search"
#: kind -> where its settings are, its tables, its files of fields; in the order in which folders are looked at
KINDS = {
    REALTIME: ("realtime.toml", ("status.csv", "events.csv"), ()),
    SEARCH: ("tune.toml", ("trials.csv",), ()),
    TRAINING: ("config.toml", ("log.csv",), ()),
    FORECAST: (None, ("scores.csv",), ("forecast.nc",)),
    TWIN: ("config.toml", ("scores.csv", "online.csv"), ("analysis.nc", "analysis.zarr")),
}
#: files that only some runs write
OPTIONAL = ("events.csv", "online.csv")
#: that are believed of settings
MOST_CYCLES = 10**7
#: columns of scores.csv that are no scores
INDEX = ("experiment", "cycle", "time_h")

Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """What a folder holds.

    Attributes:
        path: of the folder.
        kind: one of KINDS.
        settings: tables of settings; empty where there are none.
        tables: name of a CSV file -> its rows.
        summary: what scores.json says of each experiment, such as its status and seconds.
        records: the starts in record.json, first one first.
        figures: PNG files.
        missing: what is not there, or not whole, a line each.
    """

    path: Path
    kind: str
    settings: dict[str, Any]
    tables: dict[str, list[Row]]
    summary: dict[str, dict]
    records: list[dict]
    figures: list[Path]
    missing: list[str]

    @property
    def title(self) -> str:
        """That of its settings, or the folder's name."""
        return str(self.settings.get("title") or self.path.resolve().name)

    @property
    def unit(self) -> str:
        """Of the scores."""
        model = self.settings.get("model")
        return "1" if isinstance(model, dict) and model.get("kind") == "lorenz96" else "K"

    @functools.cached_property
    def scores(self) -> dict[str, dict[str, np.ndarray]]:
        """Experiment -> column -> values `(T,)` of its cycles from 0 on; NaN where a cycle has none."""
        return series_of(self.tables.get("scores.csv", []))

    @property
    def times(self) -> np.ndarray:
        """Of the cycles [h]: as many as are planned, or as there are."""
        rows = self.tables.get("scores.csv") or self.tables.get("status.csv") or []
        done = {number(row.get("cycle")): number(row.get("time_h")) for row in rows}
        hours, cycles = number(self.settings.get("interval_hours")), number(self.settings.get("cycles"))
        if math.isfinite(hours) and 0 < cycles <= MOST_CYCLES:
            return hours * np.arange(int(cycles))
        return np.array([done[cycle] for cycle in sorted(done) if math.isfinite(cycle)])


def number(value: Any) -> float:
    """A number, or NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def series_of(rows: list[Row]) -> dict[str, dict[str, np.ndarray]]:
    """Experiment -> column -> values by cycle of the rows of scores.csv or online.csv."""
    found: dict[str, dict[str, np.ndarray]] = {}
    columns = [name for name in (rows[0] if rows else ()) if name not in INDEX]
    for name in dict.fromkeys(row.get("experiment", "") for row in rows):
        own = [row for row in rows if row.get("experiment", "") == name]
        cycles = [number(row.get("cycle")) for row in own]
        size = int(max((c for c in cycles if 0 <= c < len(rows)), default=-1)) + 1
        found[name] = {column: np.full(size, np.nan) for column in columns}
        for cycle, row in zip(cycles, own, strict=True):
            if 0 <= cycle < size:
                for column in columns:
                    found[name][column][int(cycle)] = number(row.get(column))
    return found


def read(path: str | Path) -> RunFolder:
    """What there is of a run.

    Raises:
        ValueError: no folder, or none of a run: one line.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; give the folder of a run, such as runs/quickstart")
    missing: list[str] = []
    records = _record(path, missing)
    kind = _kind(path, records)
    if kind is None:
        raise ValueError(f"{path}: holds nothing of a run; give a folder of osse.py, realtime.py or train_vit.py")
    settings_file, tables, fields = KINDS[kind]
    settings = _attempt(path, settings_file, lambda own: tomllib.loads(text_files.read(own)), missing) or {}
    if not settings and records and isinstance(records[-1].get("settings"), dict):
        settings = records[-1]["settings"]
        missing += [f"{settings_file}: settings are those of record.json"] if settings_file else []
    rows = {name: _attempt(path, name, lambda own: _rows(own, missing), missing) for name in tables}
    summary = {}
    if kind == TWIN:
        content = _attempt(path, "scores.json", text_files.read_json, missing)
        found = content.get("scores") if isinstance(content, dict) else None
        summary = {name: own for name, own in found.items() if isinstance(own, dict)} if isinstance(found, dict) else {}
        missing += ["scores.json: holds no scores"] if content is not None and not summary else []
    wanted = settings.get("output", {}) if isinstance(settings.get("output"), dict) else {}
    if fields and wanted.get("fields", True) and not any((path / name).exists() for name in fields):
        missing.append(f"{fields[0]}: not there")
    found = RunFolder(path, kind, settings, {k: v for k, v in rows.items() if v}, summary, records, [], missing)
    missing += _undone(found)
    made = records[-1].get("versions") if records else None
    version = made.get("jaxda") if isinstance(made, dict) else None
    if version is not None and version != __version__:
        missing.append(f"made by jaxda {version}, read by {__version__}: what that calls otherwise is not shown")
    figures = sorted([*path.glob("figures/*.png"), *path.glob("figure.png")])
    if kind == TWIN and not figures and wanted.get("figures", True):
        missing.append("figures: not there")
    return dataclasses.replace(found, figures=figures)


def _kind(path: Path, records: list[dict]) -> str | None:
    there = lambda *names: any((path / name).exists() for name in names)
    if there("realtime.toml", "status.csv"):
        return REALTIME
    if there("tune.toml", "trials.csv"):
        return SEARCH
    if there("log.csv"):
        return TRAINING
    if there("forecast.nc"):
        return FORECAST
    command = str(records[-1].get("command", "")) if records else ""
    of_script = {"realtime.py": REALTIME, "tune.py": SEARCH, "train_vit.py": TRAINING, "forecast.py": FORECAST}
    if command.split(" ")[0] in of_script:
        return of_script[command.split(" ")[0]]
    return TWIN if there("config.toml", "scores.csv", "scores.json", "analysis.nc", "analysis.zarr") else None


def _attempt(path: Path, name: str | None, read: Callable[[Path], Any], missing: list[str]) -> Any:
    """What `read` makes of a file; None, and a line in `missing`, where that cannot be."""
    if name is None:
        return None
    try:
        return read(path / name)
    except FileNotFoundError:
        missing += [] if name in OPTIONAL else [f"{name}: not there"]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        missing.append(f"{name}: cannot be read ({' '.join(str(error).split())[:120]})")
    return None


def _rows(path: Path, missing: list[str]) -> list[Row]:
    """Rows of a CSV file that are as long as its head."""
    text = text_files.read(path)
    reader = csv.DictReader(io.StringIO(text.replace("\0", "")))
    rows = list(reader)
    good = [row for row in rows if None not in row and None not in row.values()]
    if len(good) < len(rows):
        missing.append(f"{path.name}: {len(rows) - len(good)} rows are cut off and left out")
    if not good:
        missing.append(f"{path.name}: has no rows yet")
    return good


def _record(path: Path, missing: list[str]) -> list[dict]:
    content = _attempt(path, "record.json", text_files.read_json, missing)
    entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
    missing += ["record.json: holds no starts"] if content is not None and not entries else []
    return entries


def _undone(run: RunFolder) -> Iterator[str]:
    """What a run that goes on, or was interrupted, has not done."""
    cycles = number(run.settings.get("cycles"))
    if run.kind == TWIN:
        filters = run.settings.get("filters")
        scores, planned = run.scores, list(filters) if isinstance(filters, dict) else []
        for name in dict.fromkeys([*planned, *scores]):
            done = max((len(values) for values in scores.get(name, {}).values()), default=0)
            if not done:
                yield f"{name}: no scores yet"
            elif done < cycles:
                yield f"{name}: {done} of {cycles:g} cycles"
    rows = run.tables.get("status.csv", [])
    if run.kind == REALTIME and len(rows) < cycles:
        yield f"not finished: {len(rows)} of {cycles:g} cycles"
    train = run.settings.get("train")
    steps = number(train.get("steps")) if isinstance(train, dict) else math.nan
    done = max((number(row.get("step")) for row in run.tables.get("log.csv", [])), default=0)
    if run.kind == TRAINING and done < steps:
        yield f"not finished: validated at step {done:g} of {steps:g}"


def flat(tree: dict, name: str = "") -> dict[str, Any]:
    """Tables of settings as one, with dotted names."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{name}{key}.") if isinstance(value, dict) else {f"{name}{key}": value}
    return {key: value for key, value in found.items() if value is not None}  # which TOML does not hold
