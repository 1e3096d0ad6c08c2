"""Search of one filter's settings: the candidates, the score of each, and a folder that remembers them."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tomli_w
from pydantic import ValidationError

from jaxda import config as configuration
from jaxda import experiment
from jaxda.config import ExperimentConfig
from jaxda.output import report
from jaxda.output.atomic import replacing
from jaxda.settings import difference, one_line

Value = float | int | bool | str
#: of the random subset: the same candidates at every call
SUBSET_SEED = 0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One candidate and what came of it; the score is infinite unless the status is "ok"."""

    values: dict[str, Value]
    score: float
    status: str
    seconds: float


def parse_values(words: Iterable[str]) -> dict[str, list[Value]]:
    """Fields and their candidate values from words `field=a,b,...`, each read as TOML or else as text.

    Raises:
        ValueError: no field, no value, an empty value, or a field or value that comes twice.
    """
    space = {}
    for word in words:
        field, _, text = word.partition("=")
        parts = [part.strip() for part in text.split(",")]
        if not field or not all(parts):
            raise ValueError(f"--values {word}: not a field and its values; give --values field=a,b")
        if field in space:
            raise ValueError(f"--values {word}: {field} is given twice; give all its values at once")
        found = [configuration.parse_overrides([f"--{field}={part}"])[field] for part in parts]
        if any(isinstance(value, list | dict) or found.count(value) > 1 for value in found):
            raise ValueError(f"--values {word}: values must be different numbers, words or true and false")
        space[field] = found
    if not space:
        raise ValueError("--values: nothing to search; give --values field=a,b once or more")
    return space


def candidates(space: Mapping[str, list[Value]], trials: int) -> list[dict[str, Value]]:
    """All combinations where there are no more than `trials`, else so many of them, drawn at random with one seed."""
    sizes = [len(values) for values in space.values()]
    total = math.prod(sizes)
    if total <= trials:
        return [dict(zip(space, row, strict=True)) for row in itertools.product(*space.values())]
    chosen = np.sort(np.random.default_rng(SUBSET_SEED).choice(total, trials, replace=False))
    rows = zip(*np.unravel_index(chosen, sizes), strict=True)
    return [{field: space[field][i] for field, i in zip(space, row, strict=True)} for row in rows]


def with_values(config: ExperimentConfig, name: str, values: Mapping[str, Value]) -> ExperimentConfig:
    """The experiment with one filter alone, some of whose fields are replaced.

    Raises:
        ValueError: no such filter or field, or a value that does not fit; one line.
    """
    if name not in config.filters:
        raise ValueError(f"--filter {name}: no such filter; give one of {', '.join(config.filters)}")
    settings = configuration.changed(config.filters[name], dict(values), f"filters.{name}")
    try:
        return dataclasses.replace(config, filters={name: settings})
    except ValidationError as error:
        raise ValueError(f"filters.{name}: {one_line(error)}") from None


def run(
    config: ExperimentConfig,
    world: experiment.World,
    name: str,
    values: Mapping[str, Value],
    on_chunk: Callable[[experiment.Chunk], object] = lambda chunk: None,
) -> Trial:
    """Run the filter with these values on the world of all trials; the score is the mean of rmse_a's last third."""
    config = with_values(config, name, values)
    analysis = experiment.make_filter(config, name, world.operator, world.climate)
    record = experiment.run_filter(config, world, name, analysis, on_chunk=on_chunk)
    score = record.mean("rmse_a", 1 / 3) if record.status == "ok" else math.inf
    return Trial(dict(values), score, record.status, record.seconds)


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The trials from the best score to the worst."""
    return sorted(trials, key=lambda trial: trial.score)


class Folder:
    """A search on disk: `tune.toml` says what is searched, `trials.csv` has a row for each trial that is done.

    Raises:
        ValueError: a folder with a search of other settings, or with something else in it.
    """

    def __init__(self, path: Path, settings: dict, space: Mapping[str, list[Value]]):
        self.path, self.space = path, space
        self.done: dict[tuple[str, ...], Trial] = {}
        self._settings = tomli_w.dumps(settings)
        self._columns = [*space, "score", "status", "seconds"]
        self._table = path / "trials.csv"
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            self._resume(settings)
            return
        report.new_folder(path)

    def _resume(self, settings: dict) -> None:
        try:
            before = tomllib.loads((self.path / "tune.toml").read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError):
            raise ValueError(f"{self.path}: holds no search of settings; give another --out, or move it away") from None
        wrong = difference(before, tomllib.loads(self._settings))
        if wrong:
            raise ValueError(f"{self.path}: made with another {wrong[0]}; give another --out, or move it away")
        if not self._table.exists():
            return
        text = self._table.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left part of a row
        if whole != text:
            with replacing(self._table) as hidden:
                hidden.write_text(whole, encoding="utf-8")
        by_text = {field: {_text(value): value for value in values} for field, values in self.space.items()}
        for row in csv.DictReader(whole.splitlines()):
            try:
                values = {field: known[row[field]] for field, known in by_text.items()}
                trial = Trial(values, float(row["score"]), row["status"], float(row["seconds"]))
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{self._table}: not a table of this search; move the folder away") from None
            self.done[_key(values)] = trial

    def start(self) -> None:
        """Make the folder and write down what is searched."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / "tune.toml") as hidden:
            hidden.write_text(self._settings, encoding="utf-8")
        if not self._table.exists() or not self._table.stat().st_size:
            with self._table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow(self._columns)

    def find(self, values: Mapping[str, Value]) -> Trial | None:
        """The trial of these values if it is done."""
        return self.done.get(_key(values))

    def add(self, trial: Trial) -> None:
        """Write a trial down."""
        self.done[_key(trial.values)] = trial
        row = [*_key(trial.values), f"{trial.score:.6g}", trial.status, f"{trial.seconds:.3f}"]
        with self._table.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


def write_best(path: Path, config: ExperimentConfig, name: str, best: Trial, comment: str) -> None:
    """The filter's table with the best values, every field, to be pasted into an experiment file."""
    settings = dataclasses.asdict(with_values(config, name, best.values).filters[name])
    table = {"filters": {name: {field: value for field, value in settings.items() if value is not None}}}
    with replacing(path) as hidden:
        hidden.write_text(f"# {' '.join(comment.split())}\n{tomli_w.dumps(table)}", encoding="utf-8")


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _key(values: Mapping[str, Value]) -> tuple[str, ...]:
    return tuple(map(_text, values.values()))
