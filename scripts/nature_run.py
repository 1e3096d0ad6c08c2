#!/usr/bin/env python
"""Integrate SQG turbulence from noise, or on from a file, and write a nature run and its energy spectrum."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ValidationError

from jaxda.models import sqg
from jaxda.output import netcdf, plots, progress

DAY, HOUR = 86400.0, 3600.0
MODEL = [field.name for field in fields(sqg.SQGConfig) if field.name != "kind"]


class BadInput(ValueError):
    """Options that cannot be run: one line."""


class Diverged(RuntimeError):
    """The state is no longer finite: one line."""


class Plan(NamedTuple):
    """What is integrated: counts of steps, the state to go on from (None: noise) and its time [s]."""

    config: sqg.SQGConfig
    dtype: str
    seed: int
    spinup: int
    between: int
    saves: int
    state: np.ndarray | None
    start: float
    extend: bool
    out: Path
    figure: Path
    attributes: dict


class Parser(argparse.ArgumentParser):
    """A parser that raises in place of printing its usage."""

    def error(self, message):
        """Raise BadInput."""
        raise BadInput(f"{message}; --help lists the options")


def make_parser() -> Parser:
    """One option for each field of SQGConfig, and those of the run."""
    parser = Parser(prog="nature_run.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--days", type=float, default=150.0, help="length of what is saved [days] (default: 150)")
    add("--interval-hours", type=float, help="time between saved states [h] (default: 12, or the restart file's)")
    add("--spinup-days", type=float, help="time from the noise to the first saved state [days] (default: 100)")
    add("--seed", type=int, help="seed of the noise (default: 0)")
    add("--precision", choices=["float32", "float64"], help="of model and file (default: float32, or the restart file's)")
    add("--restart", type=Path, metavar="FILE", help="go on from a state of this nature run, with its parameters")
    add("--restart-day", type=float, metavar="D", help="time of that state [days] (default: the last one saved)")
    add("--out", type=Path, metavar="FILE.nc", required=True, help="file to make; that of --restart: to lengthen")
    add("--figure", type=Path, metavar="FILE.png", help="spectrum to draw, png, pdf or svg (default: as OUT, .png)")
    group = parser.add_argument_group("model")
    for name in MODEL:
        field = sqg.SQGConfig.__pydantic_fields__[name]
        values = {bool: "true|false", int: "INT", float: "FLOAT"}.get(type(field.default), "sqgturb|exact")
        about = f"{field.description} (default: {field.default})"
        group.add_argument(f"--{name}", metavar=values, default=argparse.SUPPRESS, help=about)
    return parser


def count(option: str, value: float, unit: float, step: float, of: str, least: int = 1) -> int:
    """How many steps [s] make up the value of an option in its unit [s]; raises BadInput if not a whole number."""
    n = round(value * unit / step) if np.isfinite(value) else least
    if n < least or not abs(n * step - value * unit) <= 1e-6 * step:
        raise BadInput(f"{option} {value:g} is not a multiple of {of}; use {max(n, 1) * step / unit:.9g}")
    return n


def configure(flags: dict[str, str], run: netcdf.NatureRun | None) -> sqg.SQGConfig:
    """The model: the restart file's, which no flag may contradict, or that of the flags."""
    try:
        given = sqg.SQGConfig(**(asdict(run.config) if run else {}) | flags)
    except ValidationError as error:
        raise BadInput(netcdf.one_line(error)) from None
    for name in flags if run else ():
        if getattr(given, name) != getattr(run.config, name):
            raise BadInput(f"--{name} {flags[name]}: {run.path} has {name} = {getattr(run.config, name)}; leave it out")
    return given


def restart_state(o: argparse.Namespace, run: netcdf.NatureRun, extend: bool) -> tuple[np.ndarray, float]:
    """State and time [s] to go on from."""
    for name in ("seed", "spinup_days"):
        if getattr(o, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')} is of runs from noise; leave it out with --restart")
    day = run.times[-1] / DAY if o.restart_day is None else o.restart_day
    at = int(np.argmin(np.abs(run.times / DAY - day)))
    if not abs(run.times[at] / DAY - day) <= 1e-6:
        raise BadInput(f"--restart-day {day:g}: {run.path} has no such time; the nearest is {run.times[at] / DAY:.9g}")
    if extend and at != len(run.times) - 1:
        raise BadInput(f"--restart-day {day:g}: a file is lengthened from its last day, {run.times[-1] / DAY:.9g}")
    return netcdf.read_states(run, at, at + 1)[0], float(run.times[at])


def make_plan(argv: list[str]) -> Plan:
    """Check everything that can be checked before the run; raises BadInput or FileError."""
    o = make_parser().parse_args(argv)
    run = netcdf.read_nature_run(o.restart) if o.restart else None
    if run is None and o.restart_day is not None:
        raise BadInput("--restart-day needs the file: give --restart FILE too")
    config = configure({name: getattr(o, name) for name in MODEL if hasattr(o, name)}, run)
    extend = run is not None and o.out.exists() and o.out.samefile(o.restart)
    figure = o.figure or o.out.with_suffix(".png")
    if o.out.suffix != ".nc" or figure.suffix not in plots.FORMATS:
        raise BadInput(f"--out {o.out} must end in .nc, --figure {figure} in one of {', '.join(plots.FORMATS)}")
    for path in (o.out, figure):
        if not os.access(path.parent, os.W_OK) or path.is_dir() or (extend and not os.access(o.out, os.W_OK)):
            raise BadInput(f"{path} cannot be written; give a file in a folder that exists and may be written")
    if o.out.exists() and not extend:
        raise BadInput(f"--out {o.out} exists already; give another name, remove it, or lengthen it with --restart")
    spacing = np.diff(run.times[-2:])[0] / HOUR if run is not None and len(run.times) > 1 else None
    hours = o.interval_hours or spacing or 12.0
    if extend and spacing and abs(hours - spacing) > 1e-9 * spacing:
        raise BadInput(f"--interval-hours {hours:g}: {o.out} has a state every {spacing:g} h; leave it out")
    dtype = o.precision or (run.dtype.name if run else "float32")
    if extend and dtype != run.dtype.name:
        raise BadInput(f"--precision {dtype}: {o.out} is in {run.dtype.name}; leave it out")
    between = count("--interval-hours", hours, HOUR, config.dt, f"the time step, {config.dt:g} s")
    saves = count("--days", o.days, DAY, between * config.dt, f"the interval, {hours:g} h")
    days = 100.0 if o.spinup_days is None else o.spinup_days
    spinup = 0 if run else count("--spinup-days", days, DAY, config.dt, f"the time step, {config.dt:g} s", least=0)
    state, start = restart_state(o, run, extend) if run else (None, 0.0)
    seed = o.seed or 0
    attributes = {"history": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {shlex.join(['nature_run.py', *argv])}"}
    if run is None:
        attributes |= {"seed": seed, "spinup_days": days}
    return Plan(config, dtype, seed, spinup, between, saves, state, start, extend, o.out, figure, attributes)
