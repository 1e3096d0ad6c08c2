"""What a machine can do: products, memory, and collectives measured by message size.

Bus bandwidths follow the convention of nccl-tests (doc/PERFORMANCE.md there): with S bytes in the whole buffer, time t
and n devices, busbw = S/t * factor, factor 2 (n - 1)/n for an all-reduce and (n - 1)/n for an all-gather or a
reduce-scatter, so that a ring over links of one speed shows that speed, whatever n.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from jaxda.parallel.hlo import Transfer
from jaxda.settings import Count, Positive, described, settings

Numbers = Annotated[tuple[Positive, ...], Field(min_length=2)]


@settings
class Table:
    """All-reduces that were measured on one number of devices."""

    devices: Count = described(1, "that took part [1]")
    sizes: Numbers = described((), "messages, growing [B]")
    bus_bandwidths: Numbers = described((), "of them [B/s]")

    @model_validator(mode="after")
    def _check(self):
        if len(self.sizes) != len(self.bus_bandwidths):
            counts = f"sizes has {len(self.sizes)} entries and bus_bandwidths {len(self.bus_bandwidths)}"
            raise ValueError(f"{counts}; give as many of both")
        if any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"sizes = {list(self.sizes)} do not grow; sort them")
        if self.devices < 2:
            raise ValueError(f"devices = {self.devices}: nothing is sent on one; give two or more")
        return self

    @property
    def hop(self) -> float:
        """Time of one of the 2 (n - 1) steps of an all-reduce of nothing [s].

        Where the two smallest messages' line of time against size meets zero bytes; not negative.
        """
        (small, large), wait = self.sizes[:2], self._time
        slope = max(wait(large) - wait(small), 0.0) / (large - small)  # small messages are noisy
        return max(wait(small) - slope * small, 0.0) / (2 * (self.devices - 1))

    def _time(self, size: float) -> float:
        """Seconds of the measured all-reduce, bus bandwidths interpolated in the logarithms, constant above."""
        rate = np.exp(np.interp(np.log(size), np.log(self.sizes), np.log(self.bus_bandwidths)))
        return factor("all-reduce", self.devices) * size / float(rate)

    def seconds(self, size: float, devices: int) -> float:
        """Time of an all-reduce of `size` bytes on `devices` of this table's kind.

        Measured time less its 2 (n - 1) hops is what the wires take. That goes with n as (n - 1)/n, and no further; the
        hops of `devices` are added to it. Below the smallest message it goes to zero with the size.
        """
        if devices < 2 or size <= 0:
            return 0.0
        known = max(size, self.sizes[0])
        wires = max(self._time(known) - 2 * (self.devices - 1) * self.hop, 0.0) * size / known
        share = factor("all-reduce", devices) / factor("all-reduce", self.devices)
        return wires * share + 2 * (devices - 1) * self.hop


@settings
class Machine:
    """A machine of equal devices; tables of all-reduces by how many devices they span, smallest first."""

    title: str = described("", "name and source of the numbers")
    peak: Positive = described(1e12, "the vendor's largest rate of products [FLOP/s]")
    rates: Annotated[tuple[tuple[Count, Positive], ...], Field(min_length=1)] = described(
        ((1, 1e12),), "what a device reaches where so many compute at once, by pairs [1, FLOP/s]"
    )
    memory: Positive = described(64e9, "of a device [B]")
    memory_bandwidth: Positive = described(1e12, "of it [B/s]")
    node: Count = described(1, "devices that share a node's wires to the others [1]")
    reading: Positive = described(1e9, "samples that a device can read [B/s]")
    all_reduce: Annotated[tuple[Table, ...], Field(min_length=1)] = described((), "measured all-reduces")

    @model_validator(mode="after")
    def _check(self):
        spans = [table.devices for table in self.all_reduce]
        if spans != sorted(set(spans)):
            raise ValueError(f"all_reduce.devices = {spans} do not grow; sort the tables")
        return self

    def rate(self, devices: int) -> float:
        """What each of so many devices reaches [FLOP/s]: the entry of the most that are not more."""
        return max((entry for entry in self.rates if entry[0] <= devices), default=self.rates[0])[1]

    def seconds(self, kind: str, size: float, group: tuple[int, ...]) -> float:
        """Time of one collective of a whole buffer of `size` bytes among the devices of `group`.

        Half an all-reduce is a reduce-scatter and the other half an all-gather, which gives theirs. The table is the
        smallest that spans the group. Groups with strides run at the same time over the same wires of a node: each
        waits as one whose buffer is theirs together.
        """
        if len(group) < 2:
            return 0.0
        span = max(group) - min(group) + 1
        table = next((one for one in self.all_reduce if one.devices >= span), self.all_reduce[-1])
        together = min(group[1] - group[0], self.node) if span > self.node else 1
        whole = table.seconds(together * size, len(group))
        return whole * factor(kind, len(group)) / factor("all-reduce", len(group))


def factor(kind: str, devices: int) -> float:
    """Bytes that a device sends for each byte of the whole buffer, in the convention of nccl-tests."""
    once = (devices - 1) / devices
    return {"all-reduce": 2 * once, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(kind, once)


def rescaled(one: Transfer, old: int, new: int) -> Transfer:
    """The collective of a program for `old` devices as the same program for `new` has it.

    Groups that reach over all devices, with whatever stride, reach over the new ones; others stay.
    """
    if len(one.group) < 2:
        return one
    stride = one.group[1] - one.group[0]
    if stride * len(one.group) != old:
        return one
    return one._replace(group=tuple(range(0, new, stride)))
