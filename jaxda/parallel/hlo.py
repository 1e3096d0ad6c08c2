"""What a compiled program communicates and multiplies, read from its text.

XLA prints a program as computations of one instruction a line. A loop's body is printed once; how often it runs stands
in the loop's `known_trip_count`, which every `lax.scan` has. Here each instruction is counted as often as it runs,
which XLA's own cost analysis does not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"\b([a-z]+\d+[a-z\d]*|pred)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_PRODUCT_CALL = re.compile(r'custom_call_target="[^"]*(?:matmul|gemm|dot)[^"]*"', re.I)


class Instruction(NamedTuple):
    """One line of a computation: its name, the type of its result, what it does, to what."""

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    text: str

    @property
    def called(self) -> list[str]:
        """Computations that it runs."""
        branches = _BRANCHES.search(self.text)
        return [*_CALLED.findall(self.text), *re.findall(r"[\w.\-]+", branches[1] if branches else "")]

    @property
    def turns(self) -> int:
        """How often it runs them: of a loop its number of turns, 1 where that is not known."""
        trips = _TRIPS.search(self.text) if self.operation == "while" else None
        return int(trips[1]) if trips else 1


class Run(NamedTuple):
    """An instruction, the computation it stands in, how often it runs, and the loops around it.

    These are the names of their bodies, outermost first, "/" between; "" for none.
    """

    instruction: Instruction
    inside: str
    times: int
    loop: str


class Collective(NamedTuple):
    """One collective instruction of a program: kind, runs in a call, bytes, devices of a group, whether in a loop."""

    kind: str
    times: int
    bytes: int
    devices: int
    looped: bool


class Transfer(NamedTuple):
    """One collective instruction of a program, with who takes part and what else there is to do.

    Attributes:
        kind: of `KINDS`.
        times: how often it runs in one call of the program.
        bytes: of the whole buffer, once: what is summed, or what is there after gathering and before scattering.
        group: numbers of the devices that take part in it with the first; () where the program does not say (pairs).
        loop: the loops that it is in, as in `Run`.
        beside: operations of products (FLOP) at the same place that neither need its result nor make what it sends:
            what a device can compute meanwhile.
    """

    kind: str
    times: int
    bytes: int
    group: tuple[int, ...]
    loop: str
    beside: float = 0.0

    @property
    def devices(self) -> int:
        """How many take part in it together; 0 where the program does not say."""
        return len(self.group)

    @property
    def looped(self) -> bool:
        """Whether it is inside of a loop."""
        return bool(self.loop)


class Product(NamedTuple):
    """One matrix product or convolution: FLOP of one run, how often it runs, and the loops it is in, as in `Run`."""

    flops: float
    times: int
    loop: str


class Program:
    """The computations of a program's text (`compiled.as_text()`)."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = name = None
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head:
                name = head[2]
                self.computations[name] = {}
                self.entry = name if head[1] else self.entry
            elif name is not None and (found := _INSTRUCTION.match(line)):
                operands = tuple(re.findall(r"%([\w.\-]+)", _inside(line, found.end())))
                self.computations[name][found[1]] = Instruction(found[1], found[2], found[3], operands, line)

    def runs(self) -> Iterator[Run]:
        """The instructions that it runs; one that is called from two places comes twice."""

        def walk(name: str, times: int, loop: str) -> Iterator[Run]:
            for instruction in self.computations.get(name, {}).values():
                yield Run(instruction, name, times, loop)
                for other in instruction.called:
                    within = f"{loop}/{other}" if instruction.operation == "while" else loop
                    yield from walk(other, times * instruction.turns, within)

        if self.entry is not None:
            yield from walk(self.entry, 1, "")

    @cached_property
    def flops(self) -> dict[tuple[str, str], float]:
        """FLOP of the products of each instruction (computation, name), with all that it calls, for one run of it."""
        found: dict[tuple[str, str], float] = {}
        totals: dict[str, float] = {}

        def total(name: str) -> float:
            if name not in totals:
                totals[name] = 0.0
                for key, instruction in self.computations.get(name, {}).items():
                    below = instruction.turns * sum(total(other) for other in instruction.called)
                    found[name, key] = product_flops(instruction, self.computations[name]) + below
                totals[name] = sum(found[name, key] for key in self.computations.get(name, {}))
            return totals[name]

        for name in self.computations:
            total(name)
        return found

    def beside(self, computation: str, name: str) -> float:
        """FLOP of the computation's other instructions that neither need an instruction nor are needed by it."""
        all_of_it = self.computations[computation]
        needed, users = {name}, {name}
        open_ = [name]
        while open_:
            fresh = [one for one in all_of_it[open_.pop()].operands if one in all_of_it and one not in needed]
            needed.update(fresh)
            open_.extend(fresh)
        for key, instruction in all_of_it.items():  # operands stand before what uses them
            if users.intersection(instruction.operands):
                users.add(key)
        return sum(self.flops[computation, key] for key in all_of_it if key not in needed and key not in users)


@lru_cache(maxsize=4)
def parsed(text: str) -> Program:
    """The program of a text."""
    return Program(text)


def _inside(line: str, start: int) -> str:
    """What stands between the parenthesis that opened before `start` and its partner."""
    depth = 1
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if not depth:
            return line[start:place]
    return line[start:]


def shapes(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    """Kind and dimensions of the arrays in a type such as `(f32[2,3], s32[])`."""
    return [(kind, tuple(int(n) for n in filter(None, text.split(",")))) for kind, text in _SHAPE.findall(type_)]


def size(type_: str) -> int:
    """Bytes of the arrays in a type such as `(f32[2,3], s32[])`."""
    bits = lambda kind: BITS.get(kind) or int(re.search(r"\d+$", kind)[0])
    return sum(math.prod(dimensions) * bits(kind) // 8 for kind, dimensions in shapes(type_))


def group_of(text: str) -> tuple[int, ...]:
    """The first of an instruction's `replica_groups`, in any of the forms in which XLA prints them."""
    listed, iota, mesh = (form.search(text) for form in (_LISTED, _IOTA, _MESH))
    if listed:
        return tuple(int(n) for n in filter(None, listed[1].split(",")))
    if mesh:
        return _along_axes(*mesh.groups())
    if not iota:
        return ()
    numbers = lambda part: [int(n) for n in part.split(",")]
    ids = np.arange(math.prod(numbers(iota[3]))).reshape(numbers(iota[3]))
    ids = ids.transpose(numbers(iota[4])) if iota[4] else ids
    return tuple(int(n) for n in ids.reshape(int(iota[1]), int(iota[2]))[0])


def _along_axes(mesh: str, axes: str) -> tuple[int, ...]:
    """Devices along some axes of a mesh: `'a'=2,'b'=8` and `'a','b':(2)4`, of b the 4 after splitting off 2."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", mesh)}
    names, devices = list(sizes), np.zeros(1, int)
    for name, before, part in _AXIS.findall(axes):
        after = math.prod(sizes[other] for other in names[names.index(name) + 1 :])
        size = int(part) if part else sizes[name]
        step = after * sizes[name] // (size * int(before or 1))
        devices = (devices[:, None] + step * np.arange(size)).ravel()
    return tuple(int(n) for n in np.sort(devices))


def product_flops(instruction: Instruction, around: dict[str, Instruction]) -> float:
    """FLOP of a matrix product or convolution, 2 for each multiplication and addition; 0 of anything else.

    `around` is the computation that it stands in, which knows the types of its operands. Padding counts.
    """
    operation = instruction.operation
    is_call = operation == "custom-call" and _PRODUCT_CALL.search(instruction.text)
    if operation not in ("dot", "convolution") and not is_call:
        return 0.0
    result = shapes(instruction.type)[0][1]
    left, right = (shapes(around[name].type)[0][1] for name in instruction.operands[:2])
    if operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
        inner = math.prod(left[int(n)] for n in filter(None, contracted[1].split(","))) if contracted else 1
    elif operation == "convolution":
        labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.text)[1]
        inner = math.prod(right) / right[labels.index("o")]
    else:  # (b, m, k) times (b, k, n), in whatever order its own settings say
        batch = math.prod(result[:-2]) if min(len(left), len(right)) == len(result) > 2 else 1
        inner = math.sqrt(math.prod(left) * math.prod(right) / (math.prod(result) * batch))
    return 2.0 * math.prod(result) * inner


def transfers(text: str) -> list[Transfer]:
    """All collectives of a compiled program (`compiled.as_text()`), in the order in which they stand."""
    program, found = parsed(text), []
    for run in program.runs():
        operation = run.instruction.operation
        kind = operation.removesuffix("-start")
        if kind not in KINDS:
            continue
        group = group_of(run.instruction.text)
        parts = [size(part) for part in _top_level(run.instruction.type)]
        if operation != kind and kind != "all-reduce" and len(parts) > 1:
            # an asynchronous start has its operands, its results, and perhaps words of its own
            own = max(parts[:2])
        else:
            own = sum(parts) * (len(group) or 1 if kind == "reduce-scatter" else 1)
        beside = program.beside(run.inside, run.instruction.name)
        found.append(Transfer(kind, run.times, own, group, run.loop, beside))
    return found


def collectives(text: str) -> list[Collective]:
    """The same in short."""
    return [Collective(one.kind, one.times, one.bytes, one.devices, one.looped) for one in transfers(text)]


def _top_level(type_: str) -> list[str]:
    """The parts of a tuple's type; of another type itself."""
    if not type_.startswith("("):
        return [type_]
    parts, depth = [""], 0
    for letter in type_[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def products(text: str) -> list[Product]:
    """All matrix products and convolutions of a compiled program, with those inside of fusions."""
    program, found = parsed(text), []
    for run in program.runs():
        flops = product_flops(run.instruction, program.computations[run.inside])
        if flops:
            found.append(Product(flops, run.times, run.loop))
    return found


def count(found: Iterable[Collective | Transfer]) -> Counter[str]:
    """How many of each kind run."""
    total: Counter[str] = Counter()
    for one in found:
        total[one.kind] += one.times
    return total
