#!/usr/bin/env python
"""A long SQG run to NetCDF: python scripts/nature_run.py --out FILE.nc [--N 128 --days 300 ...] [--resume].

Integrates from noise, or on from a file, and writes a nature run and its energy spectrum.
With --resume, or where Slurm has requeued its job, the same command goes on with its file, or its spin-up.

Exit status: 0; 2 for bad input, said in one line; 1 for a run that failed; 75 if SIGTERM, SIGINT or SIGUSR1 stopped it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import jax
import numpy as np
from pydantic import ValidationError

from jaxda import nature
from jaxda.models import sqg
from jaxda.output import netcdf, progress, style
from jaxda.parallel import launch, stopping
from jaxda.settings import Parser, one_line, place

DAY, HOUR = nature.DAY, 3600.0
MODEL = [field.name for field in fields(sqg.SQGConfig) if field.name != "kind"]


class InputError(ValueError):
    """Options that cannot be run: one line."""


def make_parser() -> Parser:
    """The options of a run, and one for each field of SQGConfig."""
    parser = Parser("nature_run.py", __doc__)
    add = parser.add_argument
    add("--days", type=float, default=150.0, help="length of what is saved [days]")
    add("--interval-hours", type=float, help="time between saved states [h] (default: 12, or the restart file's)")
    add("--spinup-days", type=float, help="time from the noise to the first saved state [days] (default: 100)")
    add("--seed", type=int, help="seed of the noise [1] (default: 0)")
    precisions = ["float32", "float64"]
    add("--precision", choices=precisions, help="of model and file (default: float32, or the restart file's)")
    add("--restart", type=place, metavar="FILE", help="go on from a state of this nature run, with its parameters")
    add("--restart-day", type=float, metavar="D", help="time of that state [days] (default: the last one saved)")
    add("--resume", action="store_true", help="go on with OUT until it has --days; the same command begins it")
    add("--out", type=place, metavar="FILE.nc", required=True, help="file to make; that of --restart: to lengthen")
    add("--figure", type=place, metavar="FILE.png", help="spectrum to draw, png, pdf or svg (default: as OUT, .png)")
    group = parser.add_argument_group("model")
    for name in MODEL:
        field = sqg.SQGConfig.__pydantic_fields__[name]
        kind = type(field.default)
        values = {bool: "true|false", int: "INT", float: "FLOAT"}.get(kind, "sqgturb|exact")
        convert = kind if kind in (int, float) else str  # pydantic reads the words
        about = f"{field.description} (default: {field.default})"
        group.add_argument(f"--{name}", type=convert, metavar=values, default=argparse.SUPPRESS, help=about)
    return parser


def count(option: str, value: float, unit: float, step: float, of: str, least: int = 1) -> int:
    """How many steps [s] an option's value in its unit [s] is; raises InputError where that is not a whole number."""
    n = round(value * unit / step) if np.isfinite(value) else 0
    if n < least or not abs(n * step - value * unit) <= max(1e-6 * step, 1e-12 * value * unit):
        raise InputError(f"{option} {value:g} is not a positive multiple of {of}; use {max(n, 1) * step / unit:.9g}")
    if n >= 2**31:
        raise InputError(f"{option} {value:g} is {n:.3g} times {of}; use less")
    return n


def configure(flags: dict[str, str], run: netcdf.NatureRun | None) -> sqg.SQGConfig:
    """The model of the flags, or the restart file's, which no flag may contradict."""
    try:
        config = sqg.SQGConfig(**(asdict(run.config) if run else {}) | flags)
    except ValidationError as error:
        raise InputError(one_line(error)) from None
    for name in flags if run else ():
        if getattr(config, name) != getattr(run.config, name):
            raise InputError(f"--{name} {flags[name]}: {run.path} has {getattr(run.config, name)}; leave it out")
    return config


def restart_from(o: argparse.Namespace, run: netcdf.NatureRun, extend: bool) -> tuple[np.ndarray, float]:
    """State and time [s] to go on from."""
    days = run.times / DAY
    day = days[-1] if o.restart_day is None else o.restart_day
    at = int(np.argmin(np.abs(days - day)))
    if o.seed is not None or o.spinup_days is not None:
        raise InputError("--seed and --spinup-days are for runs from noise; leave them out with --restart")
    if not abs(days[at] - day) <= 1e-6:
        raise InputError(f"--restart-day {day:g}: {run.path} has no such time; the nearest is {days[at]:.9g}")
    if extend and at != len(days) - 1:
        raise InputError(f"--restart-day {day:g}: a file is lengthened from its last day; use {days[-1]:.9g}")
    return netcdf.read_states(run, at, at + 1)[0], float(run.times[at])


def resume(o: argparse.Namespace) -> None:
    """Make of the options for a file from its beginning those that lengthen it by what is missing."""
    if o.restart is not None:
        raise InputError(f"--restart {o.restart}: --resume goes on with --out; leave either out")
    if not o.out.exists():
        return
    with netcdf.opened(o.out) as nc:
        begun = {name: getattr(nc, name, None) for name in ("seed", "spinup_days")}
    for name, known in begun.items():
        given = getattr(o, name)
        if given is not None and known is not None and given != known:
            raise InputError(f"--{name.replace('_', '-')} {given:g}: {o.out} has {known:g}; leave it out")
    o.restart, o.seed, o.spinup_days = o.out, None, None
    o.days = round(o.days - float(np.ptp(netcdf.read_nature_run(o.out).times)) / DAY, 6)


def check_outputs(out: Path, figure: Path, extend: bool) -> None:
    """Raise InputError where the files cannot be made."""
    for option, path, endings in (("--out", out, (".nc",)), ("--figure", figure, style.FORMATS)):
        if path.suffix not in endings:
            raise InputError(f"{option} {path} is of unknown kind; give a name that ends in {' or '.join(endings)}")
    if out.exists() and not extend:
        raise InputError(f"--out {out} exists already; give another name, remove it, or lengthen it with --restart")
    for path in (out, figure):
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"{path} cannot be written; give a file in a folder that exists and may be written")


def make_plan(argv: list[str]) -> tuple[nature.Plan, Path] | None:
    """Check all that can be before the run: the run and its figure; raises InputError or FileError.

    None where the file that --resume goes on with has all its days.
    """
    o = make_parser().parse_args(argv)
    launch.require_one()
    if o.seed is not None and not 0 <= o.seed < 2**31:
        raise InputError(f"--seed {o.seed} is out of range; use 0 to {2**31 - 1}")
    if o.restart is None and o.restart_day is not None:
        raise InputError("--restart-day needs the file; give --restart FILE too")
    goes_on = o.resume or stopping.requeued()
    if goes_on:
        resume(o)
        if o.restart is not None and o.days <= 0:
            return None
    run = netcdf.read_nature_run(o.restart) if o.restart else None
    config = configure({name: getattr(o, name) for name in MODEL if hasattr(o, name)}, run)
    extend = run is not None and o.out.exists() and o.out.samefile(o.restart)
    figure = o.figure or (o.out.with_suffix(".png") if o.out.name else o.out)
    check_outputs(o.out, figure, extend)
    spacing = np.diff(run.times[-2:])[0] / HOUR if run and len(run.times) > 1 else None
    hours = o.interval_hours if o.interval_hours is not None else spacing or 12.0
    dtype = o.precision or (run.dtype.name if run else "float32")
    kept = {"--interval-hours": (hours, spacing or hours), "--precision": (dtype, run.dtype.name if run else dtype)}
    for option, (value, known) in kept.items() if extend else ():
        if value != known:
            raise InputError(f"{option} {value}: {o.out} has {known}; leave the option out to lengthen it")
    between = count("--interval-hours", hours, HOUR, config.dt, f"dt = {config.dt:g} s")
    saves = count("--days", o.days, DAY, between * config.dt, f"--interval-hours {hours:g}")
    days = 0.0 if run else 100.0 if o.spinup_days is None else o.spinup_days
    spinup = count("--spinup-days", days, DAY, config.dt, f"dt = {config.dt:g} s", least=0)
    state, start = restart_from(o, run, extend) if run else (None, 0.0)
    attributes = {} if run else {"seed": o.seed or 0, "spinup_days": days}
    attributes["history"] = netcdf.dated(shlex.join(["nature_run.py", *argv]))
    steps = {"spinup": spinup, "between": between, "saves": saves}
    origin = {"state": state, "start": start, "seed": o.seed or 0}
    plan = nature.Plan(config, out=o.out, extend=extend, dtype=dtype, attributes=attributes, **steps, **origin)
    return (nature.resumed(plan) if goes_on and run is None else plan), figure


def main(argv: list[str] | None = None) -> int:
    """Run; returns 0, 2 for input that cannot be run, 1 for a run that failed, 75 where a signal stopped it."""
    try:
        planned = make_plan(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        return launch.refuse("nature_run", error)
    if planned is None:
        print("nature_run: all days are there; nothing to do")
        return 0
    plan, figure = planned
    began = time.perf_counter()
    try:
        with jax.enable_x64(plan.dtype == "float64"):
            with stopping.watched() as stop, progress.bar("nature run", plan.days, "days") as report:
                nature.save(plan, report, stop)
            run = nature.draw(plan.out, figure)
    except (FloatingPointError, netcdf.FileError, OSError) as error:
        print(f"nature_run: {error}", file=sys.stderr)
        return 1
    except stopping.Stopped as stopped:
        print(f"nature_run: {stopped}", file=sys.stderr)
        return stopping.REQUEUE
    states = f"{len(run.times)} states of N = {run.config.N}, {plan.dtype}, to day {run.times[-1] / DAY:g}"
    print(f"{plan.out}: {states}; {plan.days:g} days in {time.perf_counter() - began:.1f} s; spectrum in {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
