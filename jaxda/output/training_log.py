"""What is written while a surrogate is trained: a table of the validations, and events for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from jaxda.output.atomic import replacing
from jaxda.output.netcdf import FileError


class TrainingLog:
    """`log.csv` and `events/` in a folder; use it in a `with`.

    A run that goes on from a checkpoint goes on in both from there: rows after its step are left out, and TensorBoard
    is told to forget what it saw of them. Rows of a table with other columns (of an older version) keep those that
    they have; what they lack is empty.

    Args:
        folder: of the run; made if it is not there.
        step: steps done before.
        writes: whether it does anything; of several processes one does.

    Raises:
        FileError: a log.csv that is none of ours.
    """

    def __init__(self, folder: Path, step: int, writes: bool = True):
        self._table, self._writes, self._events = folder / "log.csv", writes, None
        if not writes:
            return
        self._rows = [row for row in read(self._table) if int(row["step"]) <= step] if self._table.exists() else []
        folder.mkdir(parents=True, exist_ok=True)
        try:
            from tensorboardX import SummaryWriter  # here, for it brings PyTorch along, where that is installed: 2 s

            self._events = SummaryWriter(str(folder / "events"), purge_step=step + 1 if step else None, flush_secs=10)
        except ImportError:  # the table is enough to train with
            said = "tensorboardX is not installed: log.csv, but no events for TensorBoard; pip install tensorboardX"
            Console(stderr=True).print(said, highlight=False, soft_wrap=True)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_):
        if self._events is not None:
            self._events.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves in TensorBoard."""
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def row(self, values: Mapping[str, float]) -> None:
        """A validation: a row of the table, written whole or not at all, and points of curves."""
        if not self._writes:
            return
        self._rows.append(dict(values))
        names = dict.fromkeys(name for row in [values, *self._rows] for name in row)
        with replacing(self._table) as hidden, hidden.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows(self._rows)
        self.scalars(int(values["step"]), {f"validation/{name}": v for name, v in values.items() if name != "step"})


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a table of validations.

    Raises:
        FileError: no column of steps, or a step that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"])
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        reason = "has no column step" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise FileError(f"{path}: {reason}; it is no log of a training, move it away") from None
    if any(None in row for row in rows):
        raise FileError(f"{path}: has rows longer than its header; it is no log of a training, move it away")
    return rows
