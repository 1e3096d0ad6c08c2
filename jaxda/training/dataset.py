"""Training samples from a series of states: pairs (state, lead time, states after each lead), normalised.

A series is anything that returns states by number, `read(numbers) -> (n, V, N, N)`, with the hours between them: a
NetCDF nature run too large for memory, or an array. (`simulator.py` needs none: there the model makes the states.)

* **Split by time.** Turbulence forgets slowly, so states of one hour are nearly those of the next: training, validation
  and test are three stretches of the series with a gap of decorrelation time between them.
* **Order by key.** The samples of epoch e are permuted by `fold_in(key, e)`, and step i takes the same ones on any
  number of processes and after any restart; each process reads its part of the batch.
* **Shifts and mirrors.** The model does not know where x = 0 is: samples are moved along x at random. Mirrors that it
  commutes with (`models/sqg.py`) make up to eight samples of one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple

import jax
import numpy as np
from jax import Array
from pydantic import Field

from jaxda.settings import Count, Fraction, Positive, described, settings
from jaxda.shown import in_brief

HOURS_PER_DAY = 24.0
#: states read at a time when statistics are computed
CHUNK = 64


class Series(NamedTuple):
    """States in order: how many, hours between two, and a function of their numbers `(n,)` -> `(n, V, N, N)`."""

    count: int
    interval_hours: float
    read: Callable[[np.ndarray], np.ndarray]

    __repr__ = in_brief

    @classmethod
    def of(cls, states: np.ndarray, interval_hours: float) -> Series:
        """A series that is in memory (or mapped to it)."""
        return cls(len(states), interval_hours, lambda numbers: np.asarray(states[numbers]))


class Statistics(NamedTuple):
    """Mean and standard deviation of each variable, `(V,)` each, float64, in the unit of the states."""

    mean: np.ndarray
    std: np.ndarray

    __repr__ = in_brief

    def normalise(self, x):
        """States `(..., V, N, N)` in units of the standard deviation."""
        return (x - self._along(self.mean, x)) / self._along(self.std, x)

    def restore(self, x):
        """The inverse of `normalise`."""
        return x * self._along(self.std, x) + self._along(self.mean, x)

    @staticmethod
    def _along(values, x):
        return np.asarray(values, x.dtype)[:, None, None]


class Split(NamedTuple):
    """Numbers of the states of each part, `range` each: half-open."""

    train: range
    validation: range
    test: range


class Batch(NamedTuple):
    """States `(B, V, N, N)`, lead time `(B,)` [days], states after 1 .. k leads `(B, k, V, N, N)`; normalised."""

    x: Array
    lead_time: Array
    y: Array

    __repr__ = in_brief


@settings
class DataConfig:
    """How samples are made of a series."""

    lead_hours: Annotated[tuple[Positive, ...], Field(min_length=1)] = described(
        (12.0,), "lead times; each sample has one of them [h]"
    )
    roll_out: Count = described(1, "leads in a row that a sample holds [1]")
    validation: Fraction = described(0.1, "part of the series for validation [1]")
    test: Fraction = described(0.1, "part of the series for the test [1]")
    gap_hours: Annotated[float, Field(ge=0)] = described(240.0, "time left out between the parts [h]")
    shift: bool = described(True, "whether samples are moved along x at random")
    mirror: bool = described(False, "whether samples are mirrored at random, where the model's forecasts are as well")
    batch: Count = described(8, "samples of one step, over all processes [1]")


def statistics(series: Series, part: range) -> Statistics:
    """Mean and standard deviation of each variable over a part, in one pass (Chan et al. 1983, eq. 2.1).

    Raises:
        ValueError: an empty part, states that are not finite, or a variable that does not vary.
    """
    if not len(part):
        raise ValueError("series: no states to take statistics of; use a longer one")
    count, mean, square = 0, 0.0, 0.0
    for first in range(0, len(part), CHUNK):
        states = np.asarray(series.read(np.asarray(part[first : first + CHUNK])), np.float64)
        n = states.size // states.shape[1]
        own_mean = states.mean((0, 2, 3))
        own_square = ((states - own_mean[:, None, None]) ** 2).sum((0, 2, 3))
        difference = own_mean - mean
        square = square + own_square + difference**2 * count * n / (count + n)
        count, mean = count + n, mean + difference * n / (count + n)
    std = np.sqrt(square / count)
    if not np.isfinite(std).all():
        raise ValueError("series: not finite; make the nature run again with a smaller dt")
    if not (std > 0).all():
        raise ValueError(f"series: variable {int(np.argmin(std))} does not vary; leave it out or make another run")
    return Statistics(np.asarray(mean), std)


def leads(series: Series, config: DataConfig) -> np.ndarray:
    """The lead times in states of the series.

    Raises:
        ValueError: a lead time that is not a multiple of the series' interval.
    """
    steps = np.array(config.lead_hours) / series.interval_hours
    whole = np.rint(steps).astype(int)
    for hours, step, n in zip(config.lead_hours, steps, whole, strict=True):
        if n < 1 or abs(step - n) > 1e-6 * step:
            raise ValueError(
                f"lead_hours = {hours:g} is not a multiple of the series' interval of {series.interval_hours:g} h; "
                f"use {max(n, 1) * series.interval_hours:g}"
            )
    return whole


def split(series: Series, config: DataConfig) -> Split:
    """Training, validation and test, in this order in time.

    Raises:
        ValueError: a part that holds no sample.
    """
    gap = int(np.ceil(config.gap_hours / series.interval_hours))
    parts = [1.0 - config.validation - config.test, config.validation, config.test]
    usable = series.count - gap * sum(part > 0 for part in parts[1:])
    reach = config.roll_out * int(leads(series, config).max())
    ranges, start = [], 0
    for name, part in zip(Split._fields, parts, strict=True):
        size = round(part * max(usable, 0))
        if part > 0 and size <= reach:
            days = series.count * series.interval_hours / HOURS_PER_DAY
            raise ValueError(
                f"series: {days:g} days leave {size} states for {name}, under the {reach + 1} of one sample; "
                "use a longer nature run, a shorter gap_hours or lead_hours"
            )
        ranges.append(range(start, start + size))
        start += size + (gap if size else 0)
    return Split(*ranges)


def steps_per_epoch(series: Series, config: DataConfig, part: range) -> int:
    """Batches in one pass; what does not fill a batch is left out (other samples in each epoch)."""
    samples = len(part) - config.roll_out * int(leads(series, config).max())
    if samples < config.batch:
        raise ValueError(f"batch = {config.batch} is more than the {samples} samples there are; use less")
    return samples // config.batch


def batch_at(
    key: Array,
    series: Series,
    config: DataConfig,
    part: range,
    normalisation: Statistics,
    step: int,
    process: int = 0,
    processes: int = 1,
    mirrors: Sequence[Callable] = (),
) -> Batch:
    """The batch of a step (counted through all epochs), or a process's part of it, as NumPy arrays, float32.

    Args:
        mirrors: functions of states, each of which half of the samples go through.

    Raises:
        ValueError: processes that do not divide the batch.
    """
    if config.batch % processes:
        raise ValueError(f"batch = {config.batch} does not divide over {processes} processes; use a multiple")
    per_epoch = steps_per_epoch(series, config, part)
    epoch, within = divmod(step, per_epoch)
    # NumPy's generators, seeded by JAX's keys: nothing is compiled or put on a device for the order of samples
    generator = lambda *numbers: np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), *numbers])
    steps = leads(series, config)
    order = generator(0, epoch).permutation(len(part) - config.roll_out * int(steps.max()))
    chosen = order[within * config.batch :][: config.batch]
    draw = generator(1, step)
    own_steps = draw.choice(steps, config.batch)
    numbers = part.start + chosen[:, None] + own_steps[:, None] * np.arange(config.roll_out + 1)
    mine = slice(process * config.batch // processes, (process + 1) * config.batch // processes)
    numbers = numbers[mine]
    states = _read(series, numbers)
    shifts = draw.integers(0, states.shape[-1], config.batch)[mine]
    if config.shift:
        states = np.stack([np.roll(one, shift, -1) for one, shift in zip(states, shifts, strict=True)])
    flips = draw.integers(0, 2, (config.batch, len(mirrors))).astype(bool)[mine]
    for mirror, flipped in zip(mirrors, flips.T, strict=True):
        states[flipped] = mirror(states[flipped])
    states = normalisation.normalise(states.astype(np.float32))
    days = own_steps[mine] * series.interval_hours / HOURS_PER_DAY
    return Batch(states[:, 0], days.astype(np.float32), states[:, 1:])


def _read(series: Series, numbers: np.ndarray) -> np.ndarray:
    """States of numbers `(B, k)`, each read once and in order, as files like it."""
    unique, where = np.unique(numbers, return_inverse=True)
    return series.read(unique)[where.reshape(numbers.shape)]


def prefetched(batches: Iterable, ahead: int = 2) -> Iterator:
    """The same items, made by a thread while others are used; what goes wrong there is raised here."""
    waiting: queue.Queue = queue.Queue(maxsize=ahead)
    stopped, end = threading.Event(), object()

    def put(item) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in batches:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # whatever it is belongs to whoever asked for the batches
            put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
