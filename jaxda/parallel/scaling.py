"""How long a compiled program would take on a machine, and on more or fewer of its devices.

The model is derived in docs/scaling.md. Computing takes FLOP/rate, or the bytes moved through memory over their rate
where that is more; each collective what `Machine.seconds` says. How much of the communication hides behind computing is
an assumption with a name, of `OVERLAPS`:

* "none": nothing does.
* "beside": a collective hides behind the products at its own place that neither need it nor make what it sends, which
  the compiled program tells (`hlo.Transfer.beside`).
* "pipelined": what a loop over layers sends hides behind the loop's computing, but for its first turn: the
  next layer's weights are fetched, and the last layer's gradients sent, while a layer computes. XLA does so for GPUs
  where it may unroll the loop by two, or where the loop is written so.

The size of a message is free too: collectives of one kind and group may be cut, or put together, a loop's by so many
turns as divide them, which is what `parallel.group` of a training is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxda.parallel.hlo import Product, Transfer
from jaxda.parallel.machine import Machine, rescaled

OVERLAPS = ("none", "beside", "pipelined")
MESSAGES = tuple(2.0**power for power in range(22, 33))


class Work(NamedTuple):
    """What one device does in one call of a program.

    Attributes:
        devices: that run the program together.
        products: matrix products and convolutions.
        collectives: in which it takes part.
        traffic: bytes through its memory; 0 where the machine's rate is that of whole steps, which has it in it.
        reading: bytes of samples that it reads from files.
    """

    devices: int
    products: tuple[Product, ...]
    collectives: tuple[Transfer, ...]
    traffic: float = 0.0
    reading: float = 0.0

    @property
    def flops(self) -> float:
        """FLOP of all products."""
        return sum(one.flops * one.times for one in self.products)

    def at(self, devices: int) -> Work:
        """The same program on another number of devices, each with as much to do."""
        moved = tuple(rescaled(one, self.devices, devices) for one in self.collectives)
        return self._replace(devices=devices, collectives=moved)

    def times(self, factor: float) -> Work:
        """The same program with another number of samples on each device."""
        more = tuple(one._replace(flops=factor * one.flops) for one in self.products)
        beside = tuple(one._replace(beside=factor * one.beside) for one in self.collectives)
        return self._replace(
            products=more, collectives=beside, traffic=factor * self.traffic, reading=factor * self.reading
        )


class Seconds(NamedTuple):
    """Time of one call [s]: computing, communication, how much of that is hidden behind computing, reading."""

    compute: float
    communication: float
    hidden: float
    reading: float

    @property
    def exposed(self) -> float:
        """Communication that nothing hides."""
        return self.communication - self.hidden

    @property
    def total(self) -> float:
        """From the start of a call to its end."""
        return self.compute + self.exposed + self.reading

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of computing, communication that is not hidden, and reading, in the total [1]."""
        return self.compute / self.total, self.exposed / self.total, self.reading / self.total


class Choice(NamedTuple):
    """A size of messages (None: as compiled) under an assumption about overlap, and the time that they give."""

    overlap: str
    message: float | None
    seconds: Seconds


def messages(found: Iterable[Transfer], message: float | None) -> list[tuple[Transfer, float, float]]:
    """Collectives with the number and the size [B] of their messages; those of one loop, kind and group together.

    Args:
        message: largest size; a loop's are of whole turns, at least one. None: those of the program.
    """
    if message is None:
        return [(one, float(one.times), float(one.bytes)) for one in found]
    together: dict[tuple, list[Transfer]] = defaultdict(list)
    for one in found:
        together[one.loop, one.kind, one.group].append(one)
    result = []
    for some in together.values():
        total, turns = sum(one.times * one.bytes for one in some), max(one.times for one in some)
        if some[0].looped:
            number = turns // turns_of(turns, total / turns, message)
        else:
            number = max(math.ceil(total / message - 1e-9), 1)
        beside = sum(one.times * one.beside for one in some) / turns / len(some)
        result.append((some[0]._replace(times=turns, beside=beside), float(number), total / number))
    return result


def turns_of(turns: int, size: float, message: float) -> int:
    """How many of a loop's turns, whose messages have a size, travel together in one of at most `message`."""
    return max(n for n in range(1, turns + 1) if turns % n == 0 and (n == 1 or n * size <= message))


def predict(work: Work, machine: Machine, overlap: str = "none", message: float | None = None) -> Seconds:
    """Time of one call on a machine.

    Raises:
        ValueError: an overlap that is none of `OVERLAPS`.
    """
    if overlap not in OVERLAPS:
        raise ValueError(f"overlap = {overlap}: is none of {', '.join(OVERLAPS)}; use one")
    rate = machine.rate(work.devices)
    of_products: dict[str, float] = defaultdict(float)
    for one in work.products:
        of_products[one.loop] += one.flops * one.times / rate
    compute = max(sum(of_products.values()), work.traffic / machine.memory_bandwidth)
    sent, hidden = 0.0, defaultdict(float)
    for one, number, size in messages(work.collectives, message):
        seconds = number * machine.seconds(one.kind, size, one.group)
        sent += seconds
        covered = min(seconds, one.times * one.beside / rate) if overlap != "none" else 0.0
        if overlap == "pipelined" and one.looped:
            covered = seconds * (1.0 - 1.0 / number)
        hidden[one.loop] += covered
    # what is in a loop has that loop's products to hide behind, those of loops in it too; outside there are all of them
    inside = lambda loop: sum(time for other, time in of_products.items() if f"{other}/".startswith(f"{loop}/"))
    total = sum(min(covered, inside(loop) if loop else compute) for loop, covered in hidden.items())
    return Seconds(compute, sent, min(total, compute), work.reading / machine.reading)


def best(work: Work, machine: Machine, overlap: str, sizes: Sequence[float | None] = (None, *MESSAGES)) -> Choice:
    """The size of messages with the least time under an assumption about overlap; the smallest of equal ones."""
    found = [Choice(overlap, size, predict(work, machine, overlap, size)) for size in sizes]
    return min(found, key=lambda one: one.seconds.total)


def curve(work: Work, machine: Machine, devices: Sequence[int], overlap: str, message: float | None) -> list[Seconds]:
    """Times of a call on several numbers of devices, each device with as much to do."""
    return [predict(work.at(number), machine, overlap, message) for number in devices]


def efficiencies(times: Sequence[Seconds]) -> list[float]:
    """Time on the first number of devices over that on each, each device with as much to do [1]."""
    return [times[0].total / one.total for one in times]


def strong_efficiencies(
    work: Work, machine: Machine, devices: Sequence[int], overlap: str, message: float | None
) -> list[float]:
    """Device-seconds of a call on the first number of devices over those on each, all with the program's batch [1].

    Fewer devices have more samples each; whether these fit their memory is not asked.
    """
    whole = [work.at(number).times(work.devices / number) for number in devices]
    spent = [n * predict(one, machine, overlap, message).total for n, one in zip(devices, whole, strict=True)]
    return [spent[0] / one for one in spent]
