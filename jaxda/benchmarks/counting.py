"""What a compiled program computes and moves, counted from its text; loops count as often as they turn.

`compiled.cost_analysis()` counts the body of a loop once and library calls (LAPACK, and on some devices products) not
at all, which for a scan over steps is wrong by their number. Here every instruction counts as often as it runs:

* products: 2 for each multiplication and addition of a matrix product or convolution (`parallel.hlo`);
* FFTs: 5 n log2 n for a complex transform of n points, half of that for a real one, the convention of FFTW's benchmark
  (Frigo & Johnson 2005, Sec. VI), whatever the algorithm needs;
* factorizations of LAPACK and its like, by the leading term in n: Cholesky n^3/3, triangular solve n^2 a column,
  eigen-decomposition with vectors 9 n^3 (Golub & Van Loan 2013, Sec. 4.2, 3.1, 8.3), LU 2 n^3/3, QR 4 n^3/3;
* elementwise: 1 for each element of the result of an arithmetic operation or of the operand of a reduction, also for
  `exp` and its like; a complex addition is 2, a product 6, a quotient 11;
* integer: the same of integers, which is mostly random bits;
* bytes: what each instruction reads and writes, once, as if no cache kept anything (`parallel.traffic`).

All branches of a conditional count. A loop that ends when its data say so counts once: the counts are then bounds from
below, and `open_loops` says how many such loops there are.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from jaxda.parallel import hlo
from jaxda.parallel.hlo import Instruction, Program
from jaxda.parallel.traffic import traffic

#: operations of one element that do arithmetic; signs, comparisons and choices do none
ARITHMETIC = {
    "add", "subtract", "multiply", "divide", "remainder", "power", "maximum", "minimum", "sqrt", "rsqrt", "cbrt",
    "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic", "tanh", "sine", "cosine", "tan",
    "atan2", "erf",
}  # fmt: skip
INTEGER = {"add", "subtract", "multiply", "divide", "remainder", "and", "or", "xor", "not"}
INTEGER |= {"shift-left", "shift-right-logical", "shift-right-arithmetic"}
COMPLEX = {"add": 2, "subtract": 2, "multiply": 6, "divide": 11}
#: operations whose called computation is not run as it stands: it says how two elements become one, or are compared
REDUCTIONS = {"reduce", "reduce-window", "scatter", "select-and-scatter", "sort", "map"}
REDUCTIONS |= {"all-reduce", "all-reduce-start", "reduce-scatter"}
#: library calls, by what is in their names, of n x n matrices: operations over n^3, or over n times what is solved for
FACTORS = {"potrf": 1 / 3, "getrf": 2 / 3, "geqrf": 4 / 3, "syev": 9.0, "heev": 9.0}
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_WINDOW = re.compile(r"window=\{size=([\dx]+)")
_FFT = re.compile(r"fft_type=(\w+), fft_length=\{([\d,]+)\}")


class Counts(NamedTuple):
    """Operations and bytes of one call of a program, on all of its devices together.

    Attributes:
        devices: how many.
        products, fft, factors, elementwise: floating-point operations [1].
        integer: operations of integers [1].
        bytes: read and written [B].
        memory: arguments, results and what is there in between [B].
        open_loops: loops that turn until their data say so, counted once [1].
        uncounted: library calls of which nothing is known.
    """

    devices: int
    products: float
    fft: float
    factors: float
    elementwise: float
    integer: float
    bytes: float
    memory: float
    open_loops: int
    uncounted: tuple[str, ...]

    @property
    def arithmetic(self) -> float:
        """Floating-point operations but for FFTs."""
        return self.products + self.factors + self.elementwise


def counted(compiled) -> Counts:
    """The counts of a compiled program (`jax.jit(f).lower(...).compile()`)."""
    about = compiled.memory_analysis()
    memory = about.argument_size_in_bytes + about.output_size_in_bytes - about.alias_size_in_bytes
    return of_text(compiled.as_text(), memory + about.temp_size_in_bytes)


def of_text(text: str, memory: float = 0.0) -> Counts:
    """The counts of a program's text, whose devices each hold `memory` bytes."""
    program = hlo.parsed(text)
    everything = [one for body in program.computations.values() for one in body.values()]
    pairwise = {name for one in everything if one.operation in REDUCTIONS for name in one.called}
    sums = dict.fromkeys(("products", "fft", "factors", "elementwise", "integer"), 0.0)
    open_loops, uncounted = set(), set()
    for run in program.runs():
        if run.inside in pairwise:
            continue
        one, around = run.instruction, program.computations[run.inside]
        if one.operation == "while" and "known_trip_count" not in one.text:
            open_loops.add((run.inside, one.name))
        kind, number = _work_of(one, around, program)
        if kind in sums:
            sums[kind] += run.times * number
        elif kind:
            uncounted.add(kind)
    devices = _number(r"num_partitions=(\d+)", text) * _number(r"replica_count=(\d+)", text)
    whole = {name: devices * value for name, value in sums.items()}
    moved = devices * traffic(text)
    return Counts(devices, **whole, bytes=moved, memory=devices * memory, open_loops=len(open_loops),
                  uncounted=tuple(sorted(uncounted)))  # fmt: skip


def fft_work(kind: str, lengths: tuple[int, ...], elements: int) -> float:
    """Operations of transforms of `elements` points in all, each of `lengths` (`kind`: FFT, IFFT, RFFT or IRFFT).

    5 n log2 n for each n points of the complex side, 2.5 n log2 n for each n of the real side.
    """
    each = 2.5 if kind in ("RFFT", "IRFFT") else 5.0
    return each * elements * math.log2(math.prod(lengths))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text.split("\n", 1)[0])
    return int(found[1]) if found else 1


def _work_of(one: Instruction, around: dict[str, Instruction], program: Program) -> tuple[str, float]:
    """Which sum an instruction belongs to, and by how much; the name of a library call that is not known."""
    operation = one.operation
    if work := hlo.product_flops(one, around):
        return "products", work
    if operation == "fft":
        kind, lengths = _FFT.search(one.text).groups()
        real_side = around[one.operands[0]].type if kind == "RFFT" else one.type
        lengths = tuple(int(n) for n in lengths.split(","))
        return "fft", fft_work(kind, lengths, math.prod(hlo.shapes(real_side)[0][1]))
    if operation == "custom-call":
        return _library_work(_TARGET.search(one.text)[1], one, around)
    if operation in ("reduce", "reduce-window"):
        return _reduction_work(one, around, program)
    shapes = hlo.shapes(one.type)
    if operation not in ARITHMETIC | INTEGER or len(shapes) != 1:
        return "", 0.0
    (element, dimensions), *_ = shapes
    if element[0] in "su":
        return ("integer", math.prod(dimensions)) if operation in INTEGER else ("", 0.0)
    if element == "pred" or operation not in ARITHMETIC:
        return "", 0.0
    each = COMPLEX.get(operation, 1) if element.startswith("c") else 1
    return "elementwise", each * math.prod(dimensions)


def _reduction_work(one: Instruction, around: dict[str, Instruction], program: Program) -> tuple[str, float]:
    """One operation of each kind that is in the reducer for each element that goes into it."""
    reducer = program.computations[one.called[0]].values()
    element, dimensions = hlo.shapes(around[one.operands[0]].type)[0]
    if one.operation == "reduce-window":
        windows = _WINDOW.search(one.text)
        own = math.prod(hlo.shapes(one.type)[0][1])
        count = own * math.prod(int(n) for n in windows[1].split("x")) if windows else own
    else:
        count = math.prod(dimensions)
    kind = "integer" if element[0] in "su" else "elementwise"
    known = INTEGER if kind == "integer" else ARITHMETIC
    each = sum((COMPLEX.get(step.operation, 1) if element.startswith("c") else 1)
               for step in reducer if step.operation in known)  # fmt: skip
    return kind, float(each * count)


def _library_work(target: str, one: Instruction, around: dict[str, Instruction]) -> tuple[str, float]:
    (element, matrix), *others = (hlo.shapes(around[name].type)[0] for name in one.operands)
    each = 4.0 if element.startswith("c") else 1.0
    if "trsm" in target and others:
        return "factors", each * matrix[-1] * math.prod(others[0][1])
    for name, factor in FACTORS.items():
        if name in target and len(matrix) > 1:
            return "factors", each * factor * math.prod(matrix[:-2]) * matrix[-1] ** 3
    return target, 0.0
