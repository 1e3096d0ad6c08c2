"""How much a compiled program reads and writes, from its text.

Each instruction reads its operands and writes its result once; what a fusion computes inside stays in registers. That
is what a device's memory carries if no cache holds anything from one instruction to the next. Slices read or written
in place count as what they are, not as the array that they are of: a loop that takes one layer at a time would
otherwise read all of them in each turn.
"""

from __future__ import annotations

from jaxda.parallel.hlo import Instruction, Program, parsed, size

#: operations that make no array of their own
VIEWS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
SLICES = ("dynamic-slice", "slice", "gather")


def traffic(text: str) -> float:
    """Bytes that a program (`compiled.as_text()`) reads and writes in one call."""
    program, total = parsed(text), 0.0
    kept = {"while", "call", "conditional"}
    everything = [one for body in program.computations.values() for one in body.values()]
    fused = {name for one in everything if one.operation not in kept for name in one.called}
    for run in program.runs():
        if run.inside not in fused and run.instruction.operation not in VIEWS:
            total += run.times * moved(run.instruction, program.computations[run.inside], program)
    return total


def moved(instruction: Instruction, around: dict[str, Instruction], program: Program) -> float:
    """Bytes of one run of an instruction that stands in the computation `around`."""
    of = lambda name: size(around[name].type) if name in around else 0
    operation, operands, own = instruction.operation, instruction.operands, size(instruction.type)
    if operation in SLICES:
        return 2.0 * own
    if operation == "dynamic-update-slice":
        return 2.0 * of(operands[1])
    if operation != "fusion":
        return own + sum(map(of, set(operands)))  # a * a reads a once
    inner = program.computations.get(instruction.called[0], {})
    parameters = {int(one.text.split("parameter(")[1].split(")")[0]): one.name
                  for one in inner.values() if one.operation == "parameter"}  # fmt: skip
    total, written_in_place = 0.0, 0
    for number, name in enumerate(operands):
        aliases = _aliases(parameters.get(number, ""), inner)
        users = [one for one in inner.values() if aliases.intersection(one.operands) and one.name not in aliases]
        updates = [one for one in users if one.operation == "dynamic-update-slice" and one.operands[0] in aliases]
        if updates and len(updates) == len(users):
            total += 2.0 * sum(size(inner[one.operands[1]].type) for one in updates)
            written_in_place += sum(size(one.type) for one in updates)
        elif users and all(one.operation in SLICES for one in users):
            total += sum(size(one.type) for one in users)
        else:
            total += of(name)
    return total + max(own - written_in_place, 0)


def _aliases(name: str, inner: dict[str, Instruction]) -> set[str]:
    """The instruction and what merely views it."""
    found = {name}
    for one in inner.values():
        if one.operation == "bitcast" and found.intersection(one.operands):
            found.add(one.name)
    return found
