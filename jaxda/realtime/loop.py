"""The loop: wait for a cycle's file, assimilate it, forecast, write, and only then call the cycle done.

A cycle is done when its checkpoint is whole. Before that come its product and its row of status.csv, which a restart
writes again with the same numbers; after it the file of its observations is moved, which a restart makes up for. So a
run may be killed anywhere, and goes on as if it had not been. While a checkpoint goes to the disk the next cycle is
read and computed, and nothing of it is written before the one before is done.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxda.config import ExperimentConfig
from jaxda.observations import Observation
from jaxda.output import checksums, product_file, record
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.realtime import folder
from jaxda.realtime.inbox import Arrival, Inbox, Schedule, Source, Verdict
from jaxda.realtime.system import Moments, System
from jaxda.training.online import Learned
from jaxda.twin import Coupled

#: parts of a cycle that are timed, in their order
STAGES = ("waiting", "reading", "analysis", "learning", "forecast", "writing")
STATUS, EVENTS = "status.csv", "events.csv"
#: record of a cycle that was not learned from
NOTHING = Learned(*(float("nan") for _ in Learned._fields))


class Cycle(NamedTuple):
    """A cycle that is done: what status.csv says of it, `waiting_s` and the like in seconds."""

    cycle: int
    time_h: float
    status: str
    file: str
    lateness_s: float
    queue: int
    used: int
    rejected: int
    outside_network: int
    innovation_mean: float
    innovation_rms: float
    expected_rms: float
    residual_rms: float
    chi_square: float
    flagged: int
    spread_b: float
    spread_a: float
    spread_f: float
    replaced: int
    waiting_s: float
    reading_s: float
    analysis_s: float
    learning_s: float
    forecast_s: float
    writing_s: float
    learned: Learned | None

    @property
    def working(self) -> float:
        """Seconds without waiting."""
        return self.reading_s + self.analysis_s + self.learning_s + self.forecast_s + self.writing_s

    @property
    def row(self) -> dict[str, Any]:
        """The columns of status.csv; a run that learns has those of its record too."""
        row = self._asdict()
        return row | _record(row.pop("learned"))


@dataclasses.dataclass(frozen=True)
class Host:
    """What the loop asks of the world around it; tests give others.

    Attributes:
        now: wall-clock time [s].
        pause: wait a while for files.
        stopped: whether to end before the next cycle.
        show: told each cycle that is done, or while waiting what is waited for.
    """

    now: Callable[[], float] = time.time
    pause: Callable[[], None] = lambda: time.sleep(0.2)
    stopped: Callable[[], bool] = lambda: False
    show: Callable[[Cycle | str], None] = lambda what: None


def schedule_of(config: ExperimentConfig, every: float | None = None, grace: float = 60.0) -> Schedule:
    """Cycles of an experiment: real time where `every` is left out, half a time step of the model as window."""
    interval = 3600.0 * config.interval_hours
    return Schedule(interval, 1800.0 * config.model.step_hours, interval if every is None else every, grace)


def run(
    system: System, ensemble: Array, source: Source, archive: Path, out: Path, schedule: Schedule, host: Host
) -> int:
    """Cycle until `config.cycles` are done, or `host.stopped`; returns how many are.

    Args:
        ensemble: the first forecast `(M, *shape)`, for where `out` holds no checkpoint to go on with.
        source: says which files there are; `inbox.folder_source` for a folder.
        archive: where files go that were used, or could not be.
        out: gets a product and a row of status.csv each cycle, events.csv and checkpoints.

    Raises:
        FileError: a checkpoint that cannot be read, a disk that is full.
        FloatingPointError: a forecast that is not finite.
    """
    made = record.of_checkpoint(folder.lasting(system.config))
    with Checkpoints(out / "checkpoints", packed=system.abstract.model is not None) as checkpoints:
        if checkpoints.last is None:
            _save(checkpoints, 0, system.first(ensemble), made | {"origin": host.now()})
            checkpoints.wait()
        number = checkpoints.last
        meta, place = checkpoints.meta(number), checkpoints.folder / str(number)
        record.require_settings(meta, folder.lasting(system.config), place)
        record.say_versions(meta, place)
        coupled = Coupled.of(checkpoints.restore(number, system.abstract.parts))
        rows = product_file.rows_before(out / STATUS, number)
        if rows and "table" in meta and checksums.of_file(out / STATUS) != meta["table"]:
            raise FileError(f"{out / STATUS}: is not what was written; move it away, and it is begun again")
        product_file.drop_last(out / EVENTS, partial(_undone, archive, number))
        used = {int(row["cycle"]): row["file"] for row in rows if row["file"]}
        time_of = lambda path: system.read(path)[0]
        inbox = Inbox(source, archive, schedule, time_of, lambda *what: _event(out, *what), host.now)
        if "file" in meta:  # the run before may have been killed before it moved the file
            inbox.keep_used(Path(meta["file"]), Path(meta["target"]), number - 1)
        origin, last = float(meta["origin"]), _Last(checkpoints, inbox, host)
        while number < system.config.cycles:
            ready = host.now()
            given = _wait(system, inbox, number, used, schedule.due(number, origin, ready), host, last)
            if given is None:
                break
            waiting = host.now() - ready
            computed = _compute(system, number, coupled, given)
            last.finish()
            coupled, cycle = computed.coupled, _publish(system, number, computed, given, schedule, out, waiting)
            product_file.append_row(out / STATUS, cycle.row)
            meta, target = made | {"origin": origin, "table": checksums.of_file(out / STATUS)}, None
            if given.arrival:
                used[number] = cycle.file
                target = inbox.place_for(given.arrival.path, "used")
                meta |= {"file": str(given.arrival.path.absolute()), "target": str(target.absolute())}
            number += 1
            _save(checkpoints, number, coupled, meta)
            last.begun(cycle, given.arrival, target)
        last.finish()
    return number


class _Last:
    """The cycle whose checkpoint is being written, if there is one."""

    def __init__(self, checkpoints: Checkpoints, inbox: Inbox, host: Host):
        self._checkpoints, self._inbox, self._host = checkpoints, inbox, host
        self._cycle, self.arrival, self._target = None, None, None

    def begun(self, cycle: Cycle, arrival: Arrival | None, target: Path | None) -> None:
        """Its checkpoint is on its way; afterwards its file goes to `target`."""
        self._cycle, self.arrival, self._target = cycle, arrival, target

    def finish(self) -> None:
        """Wait until it is done, and move its file."""
        if self._cycle is None:
            return
        self._checkpoints.wait()
        if self.arrival:
            self._inbox.keep_used(self.arrival.path, self._target, self._cycle.cycle, self.arrival.state)
        self._host.show(self._cycle)
        self._cycle = self.arrival = None


class _Given(NamedTuple):
    """What a cycle has to work with: without an arrival no observations, and no file came until the deadline."""

    arrival: Arrival | None
    observation: Observation | None
    outside: int
    lateness: float
    reading: float
    queue: int


def _wait(
    system: System, inbox: Inbox, number: int, used: dict[int, str], due: float, host: Host, last: _Last
) -> _Given | None:
    """The observations of a cycle, or that there are none; None: the run is to stop."""
    overdue = False
    while not host.stopped():
        # Overdue twice: a folder names a file at the second look, and a run that was down has deadlines behind it.
        before, overdue = overdue, host.now() >= due + inbox.schedule.grace
        inbox.collect(number, used, last.arrival)
        arrival = inbox.queue.pop(number, None)
        if arrival is not None:
            began = time.perf_counter()
            try:
                found, observation, outside = system.read(arrival.path)
            except FileError as error:  # changed since it was looked at
                if arrival.path.is_file():
                    inbox.put_aside(Verdict("rejected", number, str(error)), arrival.path)
                continue
            if inbox.schedule.cycle_of(found) != number:
                continue  # overwritten with another time: the next look finds it
            reading = time.perf_counter() - began
            lateness = max(0.0, arrival.seen - due) if inbox.schedule.every else 0.0
            return _Given(arrival, observation, outside, lateness, reading, len(inbox.queue))
        if overdue and before:
            inbox.record(Verdict("missing", number, "there was no file of it when its time was over"), None)
            return _Given(None, None, 0, 0.0, 0.0, len(inbox.queue))
        last.finish()
        host.show(f"cycle {number}: waits, {max(0.0, due + inbox.schedule.grace - host.now()):.0f} s left")
        host.pause()
    return None


class _Computed(NamedTuple):
    """What a cycle came to: what the next one starts from, numbers about it, and how long each part took [s]."""

    coupled: Coupled
    status: str
    about: dict[str, Any]
    moments: tuple[Moments, Moments, Moments]
    learned: Learned | None
    replaced: int
    lost: int
    seconds: dict[str, float]


def _compute(system: System, number: int, coupled: Coupled, given: _Given) -> _Computed:
    """Analysis, learning and forecast of one cycle."""
    began = time.perf_counter()
    ensemble, model, suspect = coupled
    before = system.moments(ensemble)
    status, about, posterior, used = "missing", {}, ensemble, None
    if given.observation is not None:
        posterior, suspect, innovations, used = system.assimilate(
            system.key, number, ensemble, suspect, given.observation
        )
        about = {name: np.asarray(value).item() for name, value in innovations._asdict().items()}
        status = "analysed" if about.pop("finite") else "failed"
    analysis = jax.device_get(system.moments(posterior))
    analysed = time.perf_counter()
    learned = None
    if system.learn is not None:
        learned = NOTHING
        if status == "analysed" and about["used"]:  # a forecast is nothing to learn from
            model, learned = system.learn(system.key, number, model, ensemble, posterior, used)
            learned = Learned(*(float(value) for value in learned))
    has_learned = time.perf_counter()
    following, *counts = system.predict(system.key, number, model, posterior)
    forecast, (replaced, lost) = jax.device_get((system.moments(following), counts))
    replaced = int(replaced) + about.get("replaced", 0)
    seconds = {"analysis": analysed - began, "learning": has_learned - analysed if learned else 0.0}
    seconds |= {"forecast": time.perf_counter() - has_learned}
    moments = (before, analysis, forecast)
    return _Computed(Coupled(following, model, suspect), status, about, moments, learned, replaced, int(lost), seconds)


def _publish(
    system: System, number: int, computed: _Computed, given: _Given, schedule: Schedule, out: Path, waiting: float
) -> Cycle:
    """Write the product of a cycle; returns what became of it, or raises that its forecast is good for nothing."""
    about, (before, analysis, forecast), lost = computed.about, computed.moments, computed.lost
    if lost or not np.isfinite(forecast.mean).all():
        many = f"{lost} members of the forecast are not finite" if lost else "the mean of the forecast is not finite"
        limit = f"over faults.replaced_limit = {system.config.faults.replaced_limit:g}, " if lost else ""
        kept = "the cycles before it are kept; use a smaller model.dt"
        raise FloatingPointError(f"cycle {number}: {many}, {limit}{kept}")

    seconds = {"waiting": max(0.0, waiting - given.reading), "reading": given.reading}
    seconds |= computed.seconds
    name = given.arrival.path.name if given.arrival else ""
    when = schedule.interval * number
    numbers = {f"observations_{key}": about[key] for key in ("used", "rejected") if about}
    numbers |= {f"innovation_{key}": about[key] for key in ("mean", "rms", "expected_rms", "residual_rms") if about}
    numbers |= {"chi_square": about["chi_square"]} if about else {}
    attributes = {
        "cycle": number,
        "status": computed.status,
        "observation_file": name,
        "lateness_seconds": given.lateness,
    }
    attributes |= numbers | {"observations_outside_network": given.outside}
    attributes |= {"members_replaced": computed.replaced} if computed.replaced else {}
    attributes |= {"diverging": 1} if about.get("flagged") else {}
    attributes |= _record(computed.learned)
    attributes |= {f"seconds_{stage}": value for stage, value in seconds.items()}
    fields = {"analysis_mean": analysis.mean, "analysis_spread": analysis.spread}
    fields |= {"forecast_mean": forecast.mean, "forecast_spread": forecast.spread}
    product = out / product_file.name_of(when)
    grid = system.config.forecast_model
    writing = product_file.write(product, grid, when, when + schedule.interval, fields, attributes)
    spreads = (float(moments.mean_spread) for moments in (before, analysis, forecast))
    nothing = float("nan")
    return Cycle(
        number,
        when / 3600.0,
        computed.status,
        name,
        given.lateness,
        given.queue,
        about.get("used", 0),
        about.get("rejected", 0),
        given.outside,
        *(about.get(key, nothing) for key in ("mean", "rms", "expected_rms", "residual_rms", "chi_square")),
        int(about.get("flagged", 0)),
        *spreads,
        computed.replaced,
        *seconds.values(),
        writing,
        computed.learned,
    )


def _record(learned: Learned | None) -> dict[str, float]:
    """The record of learning under the names that it has in status.csv and products; empty where nothing learns."""
    return {f"learning_{name}": value for name, value in learned._asdict().items()} if learned else {}


def _save(checkpoints: Checkpoints, number: int, coupled: Coupled, meta: dict[str, Any]) -> None:
    """Begin to write what cycle `number` starts from; the one before is deleted when this is on the disk."""
    checkpoints.save(number, coupled.parts, meta, error=-number)


def _undone(archive: Path, number: int, rows: list[dict[str, str]]) -> bool:
    """Whether the run before was killed between its last event and what that was about, which will be an event again.

    That is a file which was to be put aside, or the cycle, of `number` now, that was to do without one.
    """
    last = rows[-1]
    if not last["file"]:
        return last["cycle"] == str(number)
    told = sum(row["file"] == last["file"] and row["decision"] == last["decision"] for row in rows)
    place = archive / last["decision"]
    moved = [place / last["file"], *(place / f"{last['file']}.{again}" for again in range(1, told))]
    return (archive / last["file"]).is_file() and not all(path.exists() for path in moved)


def _event(out: Path, verdict: Verdict, path: Path | None) -> None:
    """A row of events.csv: what became of a file, or of a cycle without one."""
    row = {"clock": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "cycle": "" if verdict.cycle is None else verdict.cycle}
    row |= {"decision": verdict.place, "file": path.name if path else "", "reason": verdict.reason}
    product_file.append_row(out / EVENTS, row)
