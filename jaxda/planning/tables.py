"""Tables, figures and JSON of plans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from jaxda.output import scale_plots
from jaxda.parallel.machine import Machine
from jaxda.parallel.scaling import OVERLAPS, Choice, best, curve, efficiencies, predict, turns_of
from jaxda.planning.programs import Plan

#: Yin et al. 2024, SC24, on 1024 GCDs of Frontier: shares of computing, communication and IO by points along a side
PUBLISHED = {64: (0.697, 0.296, 0.007), 128: (0.718, 0.268, 0.015), 256: (0.623, 0.362, 0.016)}
#: the smaller of their strong-scaling efficiencies there
PUBLISHED_EFFICIENCY = 0.85


def best_of(plans: Sequence[Plan], machine: Machine, overlap: str) -> tuple[Plan, Choice]:
    """The plan with the least time a sample, of those that fit the memory if any does, with its best messages."""
    fitting = [one for one in plans if one.cost.memory.total <= machine.memory] or list(plans)
    found = [(one, best(one.cost.work, machine, overlap)) for one in fitting]
    return min(found, key=lambda pair: pair[1].seconds.total / pair[0].samples)


def group_of(plan: Plan, choice: Choice) -> int:
    """Turns of the loops over layers that the messages of a choice are of; 1 as compiled."""
    if choice.message is None:
        return 1
    together: dict[tuple, list] = defaultdict(list)
    for one in plan.cost.work.collectives:
        if one.looped:
            together[one.loop, one.kind, one.group].append(one)
    found = [1]
    for some in together.values():
        turns = max(one.times for one in some)
        found.append(turns_of(turns, sum(one.times * one.bytes for one in some) / turns, choice.message))
    return max(found)


def numbers_of(plan: Plan, base: int) -> list[int]:
    """Numbers of devices of the curves: powers of two times the base, up to the plan's."""
    found = [base]
    while 2 * found[-1] <= plan.cost.work.devices:
        found.append(2 * found[-1])
    return found


def of_plans(title: str, plans: Sequence[Plan], machine: Machine, base: int, overlap: str) -> list[object]:
    """What the script prints of one configuration."""
    devices = plans[0].cost.work.devices
    head = f"{title}: {devices} devices, {plans[0].samples:g} samples or members on each"
    chosen, choice = best_of(plans, machine, overlap)
    seconds, before = choice.seconds, curve(chosen.cost.work, machine, [base], overlap, choice.message)[0]
    fits = "fits" if chosen.cost.memory.total <= machine.memory else "does not fit"
    size = "as compiled" if choice.message is None else f"of at most {choice.message / 2**20:g} MiB"
    words = [
        f"best of these ({overlap}): {chosen.name}, {seconds.total:.4g} s, messages {size}, layers together: "
        f"{group_of(chosen, choice)}",
        f"    {chosen.cost.memory.total / 1e9:.3g} GB a device: {fits} {machine.memory / 1e9:g} GB",
        f"    {before.total / seconds.total:.3f} of the speed of {base} devices, on {devices}",
    ]
    return [_memory(head, plans, machine), _sent(plans), _times(plans, machine, base), *words]


def _memory(title: str, plans: Sequence[Plan], machine: Machine) -> Table:
    kinds = list(dict.fromkeys(kind for one in plans for kind in one.memory))
    table = Table("", *(f"{kind}" for kind in kinds), "GB in all", "fits", "compiled in [s]", title=title)
    for one in plans:
        parts = [f"{one.memory.get(kind, 0) / 1e9:.3g}" for kind in kinds]
        total = one.cost.memory.total
        fits = "yes" if total <= machine.memory else "no"
        table.add_row(one.name, *parts, f"{total / 1e9:.4g}", fits, f"{one.cost.lowering + one.cost.compiling:.0f}")
    return table


def _sent(plans: Sequence[Plan]) -> Table:
    table = Table("", "collective", "devices", "where", "times", "MB each", "GB", title="communication of a call")
    for one in plans:
        rows: dict[tuple, list[float]] = defaultdict(lambda: [0, 0.0])
        for each in one.cost.work.collectives:
            row = rows[each.kind, each.devices, "in a loop" if each.looped else "outside", each.times]
            row[0] += each.times
            row[1] += each.times * each.bytes
        name = one.name
        for (kind, devices, where, _), (times, total) in sorted(rows.items(), key=lambda row: -row[1][1]):
            mean, whole = f"{total / times / 1e6:.4g}", f"{total / 1e9:.4g}"
            table.add_row(name, kind, str(devices or "pairs"), where, f"{times:.0f}", mean, whole)
            name = ""
    return table


def _times(plans: Sequence[Plan], machine: Machine, base: int) -> Table:
    heads = ("overlap", "messages", "s", "computing", "communication", "reading", f"efficiency, {base} = 1", "TFLOP/s")
    table = Table("", *heads, title=machine.title)
    for one in plans:
        work, name = one.cost.work, one.name
        for overlap in OVERLAPS:
            compiled = predict(work, machine, overlap)
            choices = [Choice(overlap, None, compiled), best(work, machine, overlap)]
            for choice in choices if choices[1].message is not None else choices[:1]:
                found = choice.seconds
                before = predict(work.at(base), machine, overlap, choice.message)
                size = "as compiled" if choice.message is None else f"{choice.message / 2**20:g} MiB"
                shares = (f"{share:.3f}" for share in found.shares)
                rate = f"{work.flops / found.total / 1e12:.3g}"
                efficiency = f"{before.total / found.total:.3f}"
                table.add_row(name, overlap, size, f"{found.total:.4g}", *shares, efficiency, rate)
                name = ""
    return table


def figures(folder: Path, found: Mapping[str, Sequence[Plan]], machine: Machine, base: int, overlap: str) -> None:
    """The figures of plans of trainings, `plan_*.png`, and of analyses, `plan_analyses.png`."""
    trainings = {name: plans for name, plans in found.items() if plans[0].side}
    others = {name: plans for name, plans in found.items() if name not in trainings}
    if trainings:
        _of_trainings(folder, trainings, machine, base, overlap)
    if others:
        curves = {}
        for name, plans in others.items():
            for one in plans:
                numbers = numbers_of(one, base)
                times = curve(one.cost.work, machine, numbers, "none", None)
                curves[f"{name}, {one.name}"] = [seconds.total for seconds in times]
        scale_plots.analyses(folder / "plan_analyses.png", numbers, curves, "an analysis [s]", machine.title)


def _of_trainings(folder: Path, found: Mapping[str, Sequence[Plan]], machine: Machine, base: int, overlap: str) -> None:
    memory = {name: {one.name: one.memory for one in plans} for name, plans in found.items()}
    devices = next(iter(found.values()))[0].cost.work.devices
    title = f"{devices} devices, samples on each: {next(iter(found.values()))[0].samples:g}"
    scale_plots.memory(folder / "plan_memory.png", memory, machine.memory, title)
    bars, curves = {}, {}
    for name, plans in found.items():
        side = plans[0].side
        if side in PUBLISHED and machine.peak == 191e12:
            bars[f"{name}: published"] = PUBLISHED[side]
        for assumed in dict.fromkeys(("none", overlap)):
            one, choice = best_of(plans, machine, assumed)
            numbers = numbers_of(one, base)
            times = curve(one.cost.work, machine, numbers, assumed, choice.message)
            label = "nothing hidden" if assumed == "none" else assumed
            bars[f"{name}: {one.name}, {label}"] = choice.seconds.shares
            rates = [n * one.samples / seconds.total for n, seconds in zip(numbers, times, strict=True)]
            curves[f"{name}, {one.name}, {label}"] = (efficiencies(times), rates)
    scale_plots.shares(folder / "plan_shares.png", bars, f"{machine.title}, {title}")
    scale_plots.scaling(folder / "plan_scaling.png", numbers, curves, PUBLISHED_EFFICIENCY, f"{machine.title}, {title}")


def content(found: Mapping[str, Sequence[Plan]], machine: Machine, base: int) -> dict:
    """Everything as plain values, for JSON."""
    plans = {}
    for title, some in found.items():
        for one in some:
            work = one.cost.work
            times = {}
            for overlap in OVERLAPS:
                choice = best(work, machine, overlap)
                before = predict(work.at(base), machine, overlap, choice.message).total
                times[overlap] = {
                    "as_compiled": predict(work, machine, overlap)._asdict(),
                    "message": choice.message,
                    "layers_together": group_of(one, choice),
                    "best": choice.seconds._asdict(),
                    "efficiency": before / choice.seconds.total,
                }
            plans[f"{title}: {one.name}"] = {
                "devices": work.devices,
                "samples": one.samples,
                "memory": one.memory | {"total": one.cost.memory.total},
                "flops": work.flops,
                "traffic": work.traffic,
                "collectives": [
                    {"kind": c.kind, "times": c.times, "bytes": c.bytes, "devices": c.devices, "looped": c.looped}
                    for c in work.collectives
                ],
                "lowering": one.cost.lowering,
                "compiling": one.cost.compiling,
                "seconds": times,
            }
    return {"plans": plans, "machine": machine.title}
