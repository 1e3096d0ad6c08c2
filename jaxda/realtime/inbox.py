"""Observation files as they arrive: which cycle each belongs to, whether it comes in time, and where it goes.

Nothing is deleted. A file that is used goes to the folder `used`, any other to `rejected`, `late` or `duplicate`, with
the reason in a text file beside it. The decisions are pure functions of times; only `Inbox` touches files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxda.output.netcdf import FileError

#: says which files are there, as long as they are; those that wait are known
Source = Callable[[], Iterable[str | Path]]


@dataclass(frozen=True)
class Schedule:
    """When there are analyses, and how long files are waited for.

    Attributes:
        interval: from analysis to analysis [s of the model]; the first is at 0.
        window: observations at most this far from an analysis belong to it [s of the model].
        every: from cycle to cycle on the clock [s]; 0: no clock, a cycle is due when the one before is done.
        grace: how long after it was due a cycle waits for its file [s].
    """

    interval: float
    window: float
    every: float = 0.0
    grace: float = 60.0

    def cycle_of(self, time: float) -> int | None:
        """The cycle that observations of a time [s of the model] belong to; None: they are outside of every window."""
        number = round(time / self.interval)
        return number if number >= 0 and abs(time - number * self.interval) <= self.window else None

    def due(self, number: int, origin: float, ready: float) -> float:
        """When a cycle is due, on the clock of `origin`, cycle 0, and `ready`, when the cycle before was done [s]."""
        return origin + number * self.every if self.every else ready


class Verdict(NamedTuple):
    """Where a file goes, "queue" or the name of a folder, the cycle that it belongs to, and why."""

    place: str
    cycle: int | None
    reason: str = ""


def judge(schedule: Schedule, time: float, coming: int, used: Mapping[int, str], queued: Mapping[int, str]) -> Verdict:
    """What becomes of a readable file with observations of `time` [s of the model].

    Args:
        coming: the cycle that comes next.
        used: cycle -> name of the file that it used, for cycles that are done; those without observations are left out.
        queued: cycle -> name of the file that waits for it.
    """
    cycle = schedule.cycle_of(time)
    if cycle is None:
        cure = f"analyses are every {schedule.interval:g} s from 0 on; correct time"
        return Verdict("rejected", None, f"time = {time:g} s is over {schedule.window:g} s from any analysis: {cure}")
    taken = used.get(cycle) or queued.get(cycle)
    if taken:
        return Verdict("duplicate", cycle, f"cycle {cycle} has {taken} already, which came before")
    if cycle < coming:
        cure = "send it earlier, or use a longer --grace"
        return Verdict("late", cycle, f"cycle {cycle} was done without observations when it came; {cure}")
    return Verdict("queue", cycle)


def state_of(path: Path) -> tuple[int, int] | None:
    """Size [B] and time of change [ns] of a file, None where there is none: what tells that it is still the same."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def folder_source(folder: str | Path) -> Source:
    """The files `*.nc` of a folder that have not changed between two calls, in the order of their names.

    So a file that is still being written is left alone, also where its writer does not rename it when it is whole.
    Hidden files and folders are left alone.
    """
    known: dict[Path, tuple[int, int]] = {}

    def look() -> list[Path]:
        found = {}
        for path in sorted(Path(folder).glob("*.nc")):
            if not path.name.startswith(".") and path.is_file():
                found[path] = state_of(path)
        settled = [path for path, state in found.items() if known.get(path) == state]
        known.clear()
        known.update(found)
        return settled

    return look


class Arrival(NamedTuple):
    """A file that waits for its cycle, when it was first seen on the clock [s], and its state then."""

    path: Path
    seen: float
    state: tuple[int, int]


class Inbox:
    """The queue of files, and the folders that the others go to.

    Args:
        source: says which files there are.
        archive: folder of the folders `used`, `rejected`, `late` and `duplicate`, made when they are needed.
        time_of: reads a whole file and returns the time of its observations [s of the model], or raises FileError.
        record: told what was decided, before a file is moved: `(verdict, path)`.
        now: the clock [s].
    """

    def __init__(
        self,
        source: Source,
        archive: str | Path,
        schedule: Schedule,
        time_of: Callable[[Path], float],
        record: Callable[[Verdict, Path | None], None],
        now: Callable[[], float],
    ):
        self.schedule, self.queue = schedule, {}
        self._source, self._archive, self._time_of = source, Path(archive), time_of
        self.record, self._now = record, now

    def collect(self, coming: int, used: Mapping[int, str], in_use: Arrival | None = None) -> None:
        """Look for new files; each joins the queue or is put aside. One that changed while it waited is a new one.

        `in_use` is that of a cycle that is not done yet, which is left where it is as long as it is the same.
        """
        self.queue = {cycle: one for cycle, one in self.queue.items() if state_of(one.path) == one.state}
        waiting = {arrival.path for arrival in self.queue.values()}
        if in_use and state_of(in_use.path) == in_use.state:
            waiting.add(in_use.path)
        for path in map(Path, self._source()):
            if path in waiting or not path.is_file():
                continue
            state = state_of(path)  # before it is read: if it changes meanwhile, it is looked at again
            try:
                time = self._time_of(path)
            except FileError as error:
                self.put_aside(Verdict("rejected", None, str(error)), path)
                continue
            names = {cycle: arrival.path.name for cycle, arrival in self.queue.items()}
            verdict = judge(self.schedule, time, coming, used, names)
            if verdict.place == "queue":
                self.queue[verdict.cycle] = Arrival(path, self._now(), state)
            else:
                self.put_aside(verdict, path)

    def put_aside(self, verdict: Verdict, path: Path) -> None:
        """Move a file to the folder of a verdict, with the reason in a text file beside it."""
        self.record(verdict, path)
        target = self.place_for(path, verdict.place)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f"{target.name}.txt").write_text(f"{verdict.reason}\n", encoding="utf-8")
        shutil.move(path, target)

    def place_for(self, path: Path, place: str) -> Path:
        """A name that is free in one of the folders."""
        names = (path.name if number == 0 else f"{path.name}.{number}" for number in range(10**9))
        return next(target for name in names if not (target := self._archive / place / name).exists())

    def keep_used(self, path: Path, target: Path, cycle: int, state: tuple[int, int] | None = None) -> None:
        """Move the file that a cycle has used to `target`, unless that was done, or its name is now another file's.

        That it is not is known from its `state` when it was read, or else by reading it again.
        """
        if target.exists() or not path.is_file():
            return
        same = state is not None and state_of(path) == state
        if not same:
            try:
                same = self.schedule.cycle_of(self._time_of(path)) == cycle
            except FileError:
                same = False
        if same:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
