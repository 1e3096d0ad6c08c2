"""What a compiled program communicates, read from its text.

XLA prints a program as computations of one instruction a line. A loop's body is printed once; how often it runs stands
in the loop's `known_trip_count`, which every `lax.scan` has. Here each collective is counted as often as it runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[(\d+),(\d+)\])")


class Collective(NamedTuple):
    """One collective instruction of a program.

    Attributes:
        kind: of `KINDS`.
        times: how often it runs in one call of the program.
        bytes: of the whole buffer, once: what is summed, or what is there after gathering and before scattering.
        devices: that take part in it together; 0 where the program does not say (all, or pairs).
        looped: whether it is inside of a loop.
    """

    kind: str
    times: int
    bytes: int
    devices: int
    looped: bool


class Line(NamedTuple):
    """An instruction, how often it runs, and whether inside of a loop."""

    text: str
    times: int
    looped: bool


def run_lines(program: str) -> Iterator[Line]:
    """The instructions that a program (`compiled.as_text()`) runs; one that is called from two places comes twice.

    A loop without a known number of turns counts as one turn.
    """
    computations: dict[str, list[str]] = {}
    entry = name = None
    for line in program.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name is not None and line.startswith(" "):
            computations[name].append(line)

    def walk(name: str, times: int, looped: bool) -> Iterator[Line]:
        for line in computations.get(name, ()):
            yield Line(line, times, looped)
            loop = " while(" in line
            trips = _TRIPS.search(line)
            below = times * int(trips[1]) if loop and trips else times
            branches = _BRANCHES.search(line)
            called = [*_CALLED.findall(line), *re.findall(r"[\w.\-]+", branches[1] if branches else "")]
            for other in called:
                yield from walk(other, below, looped or loop)

    if entry is not None:
        yield from walk(entry, 1, False)


def size(shapes: str) -> int:
    """Bytes of the arrays in a type such as `(f32[2,3], s32[])`."""
    total = 0
    for kind, dimensions in _SHAPE.findall(shapes):
        bits = BITS.get(kind) or int(re.search(r"\d+$", kind)[0])
        count = 1
        for n in filter(None, dimensions.split(",")):
            count *= int(n)
        total += count * bits // 8
    return total


def collectives(program: str) -> list[Collective]:
    """All collectives of a compiled program (`compiled.as_text()`), in the order in which they stand."""
    found = []
    for line in run_lines(program):
        match = _COLLECTIVE.search(line.text)
        if not match:
            continue
        shapes, kind, started = match.groups()
        groups = _GROUPS.search(line.text)
        devices = 0 if not groups else int(groups[3]) if groups[3] else groups[1].count(",") + 1
        own = size(shapes)
        if started and kind in ("all-gather", "reduce-scatter", "collective-permute"):
            # an asynchronous start has its operands and results: (small, large)
            own = own * devices // (devices + 1) if kind != "collective-permute" and devices else own // 2
        elif kind == "reduce-scatter":
            own *= max(devices, 1)
        found.append(Collective(kind, line.times, own, devices, line.looped))
    return found


def count(found: Iterable[Collective]) -> Counter[str]:
    """How many of each kind run."""
    total: Counter[str] = Counter()
    for one in found:
        total[one.kind] += one.times
    return total
