"""Tables, figures and JSON of plans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from jaxda.output import scale_plots
from jaxda.parallel.machine import Machine
from jaxda.parallel.scaling import (
    MESSAGES,
    OVERLAPS,
    Choice,
    best,
    curve,
    efficiencies,
    predict,
    strong_efficiencies,
    turns_of,
)
from jaxda.planning.programs import Plan
from jaxda.planning.stored import plain

#: Yin et al. 2024, SC24, on 1024 GCDs of Frontier: shares of computing, communication and IO by points along a side
PUBLISHED = {64: (0.697, 0.296, 0.007), 128: (0.718, 0.268, 0.015), 256: (0.623, 0.362, 0.016)}
#: the smaller of their strong-scaling efficiencies there
PUBLISHED_EFFICIENCY = 0.85


def best_of(plans: Sequence[Plan], machine: Machine, overlap: str) -> tuple[Plan, Choice]:
    """The plan with the least time a sample, of those that fit the memory if any does, with its best messages."""
    fitting = [one for one in plans if one.cost.memory.total <= machine.memory] or list(plans)
    found = [(one, best_messages(one, machine, overlap)) for one in fitting]
    return min(found, key=lambda pair: pair[1].seconds.total / pair[0].samples)


def best_messages(plan: Plan, machine: Machine, overlap: str) -> Choice:
    """The best messages of a plan; those of an analysis stay as compiled, since each waits for the one before."""
    return best(plan.cost.work, machine, overlap, (None, *MESSAGES) if plan.side else (None,))


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


def matching(plan: Plan, machine: Machine, choice: Choice) -> float:
    """Samples on each device with which computing has the published share of computing and communication [1].

    Nothing is hidden in that. Computing grows with the samples, communication does not.
    """
    computing, communication, _ = PUBLISHED[plan.side]
    found = predict(plan.cost.work, machine, "none", choice.message)
    return plan.samples * computing / communication * found.communication / found.compute


def _matched(plans: Sequence[Plan], machine: Machine) -> float:
    """Of the best plan, and not less than there are: no device has a part of a sample."""
    one, choice = best_of(plans, machine, "none")
    return max(matching(one, machine, choice), one.samples)


def with_samples(plan: Plan, samples: float) -> Plan:
    """The plan with another number of samples on each device; its memory is left as it is."""
    work = plan.cost.work.times(samples / plan.samples)
    return plan._replace(samples=samples, cost=plan.cost._replace(work=work))


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
    if chosen.side:
        strong = strong_efficiencies(chosen.cost.work, machine, [base, devices], overlap, choice.message)[1]
        words.append(f"    {strong:.3f} where {base} devices have the whole batch (strong scaling)")
    shown = [_memory(head, plans, machine), _sent(plans), _times(plans, machine, base)]
    return [*shown, *([_by_samples(plans, machine, base, overlap)] if plans[0].side else []), *words]


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
            choices = [Choice(overlap, None, compiled), best_messages(one, machine, overlap)]
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


def _by_samples(plans: Sequence[Plan], machine: Machine, base: int, overlap: str) -> Table:
    """The fastest strategy by samples on each device: those that computing is published for among them."""
    devices = plans[0].cost.work.devices
    heads = ("samples", "best", "s", "computing", "communication", f"efficiency, {base} = 1", "samples/s of all")
    table = Table("overlap", *heads, title="more samples on each device (memory not looked at)")
    for assumed in dict.fromkeys(("none", overlap)):
        for samples in _numbers_of_samples(plans, machine, assumed):
            one, choice = best_of([with_samples(plan, samples) for plan in plans], machine, assumed)
            before = predict(one.cost.work.at(base), machine, assumed, choice.message)
            shares = (f"{share:.3f}" for share in choice.seconds.shares[:2])
            total = choice.seconds.total
            row = (f"{samples:.3g}", one.name, f"{total:.4g}", *shares, f"{before.total / total:.3f}")
            table.add_row(assumed, *row, f"{devices * samples / total:.4g}")
    return table


def _numbers_of_samples(plans: Sequence[Plan], machine: Machine, overlap: str) -> list[float]:
    found = [plans[0].samples * 2.0**power for power in range(6)]
    if plans[0].side in PUBLISHED and overlap == "none":
        found.append(_matched(plans, machine))
    return sorted(set(found))


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
        is_published = plans[0].side in PUBLISHED
        if is_published:
            bars[f"{name}: published"] = PUBLISHED[plans[0].side]
            samples = _matched(plans, machine)
            plans = [with_samples(one, samples) for one in plans]
        for assumed in dict.fromkeys(("none", overlap)):
            one, choice = best_of(plans, machine, assumed)
            numbers = numbers_of(one, base)
            times = curve(one.cost.work, machine, numbers, assumed, choice.message)
            label = f"{one.name}, {one.samples:.3g} samples, {'nothing hidden' if assumed == 'none' else assumed}"
            bars[f"{name}: {label}"] = choice.seconds.shares
            rates = [n * one.samples / seconds.total for n, seconds in zip(numbers, times, strict=True)]
            strong = strong_efficiencies(one.cost.work, machine, numbers, assumed, choice.message)
            curves[f"{name}, {label}"] = (efficiencies(times), strong, rates)
    on_each = f"{machine.title}, {devices} devices"
    scale_plots.shares(folder / "plan_shares.png", bars, on_each)
    scale_plots.scaling(folder / "plan_scaling.png", numbers, curves, PUBLISHED_EFFICIENCY, on_each)


def content(found: Mapping[str, Sequence[Plan]], machine: Machine, base: int) -> dict:
    """The plans and the times that the model gives them, as plain values for JSON."""
    seconds = {title: {one.name: _predicted(one, machine, base) for one in plans} for title, plans in found.items()}
    plans = {title: [plain(one) for one in some] for title, some in found.items()}
    return {"seconds": seconds, "machine": machine.title, "plans": plans}


def _predicted(one: Plan, machine: Machine, base: int) -> dict:
    work, found = one.cost.work, {}
    for overlap in OVERLAPS:
        choice = best_messages(one, machine, overlap)
        before = predict(work.at(base), machine, overlap, choice.message).total
        found[overlap] = {
            "as_compiled": predict(work, machine, overlap)._asdict(),
            "message": choice.message,
            "layers_together": group_of(one, choice),
            "best": choice.seconds._asdict(),
            "efficiency": before / choice.seconds.total,
        }
    return found
