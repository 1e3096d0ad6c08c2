"""Nature runs: long integrations of the SQG model, written as they go, and what they look like.

Host code: the compiled part is one interval of the model. A run that is interrupted goes on from the last state of its
file, or, before there is a file, from the state of its spin-up that is kept beside it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxda.models import sqg
from jaxda.output import netcdf, spectrum_plots
from jaxda.output.atomic import replacing
from jaxda.parallel.stopping import Stop

DAY = 86400.0
#: between two states of the spin-up that are kept [s of computing]
KEEP_EVERY = 30.0


@dataclass(frozen=True)
class Plan:
    """A nature run that has been checked and can be done.

    Attributes:
        config: the model's settings.
        spinup, between, saves: steps before the first saved state and between saved ones, and how many of these follow.
        state, start: PV `(2, N, N)` in m/s to go on from and its time [s]; None starts from noise of `seed`.
        done: steps of the spin-up that were done before `state`.
        out, extend: file to make, or to lengthen.
        dtype: of model and file; attributes: global ones of the file, `history` among them.
    """

    config: sqg.SQGConfig
    spinup: int
    between: int
    saves: int
    out: Path
    dtype: str = "float32"
    seed: int = 0
    state: np.ndarray | None = None
    start: float = 0.0
    done: int | None = None
    extend: bool = False
    attributes: dict | None = None

    @property
    def days(self) -> float:
        """Length of the integration [day]."""
        return (self.spinup + self.saves * self.between) * self.config.dt / DAY


def trajectory(plan: Plan) -> Iterator[tuple[int, jax.Array]]:
    """Steps done and state on the device, every interval, spin-up's too; raises FloatingPointError when not finite."""
    config, steps = plan.config, plan.spinup % plan.between
    # From save to save one compiled function, through the grid: a restarted run repeats the unbroken one bit for bit.
    advance = jax.jit(sqg.make_advance(config, plan.between))
    start = sqg.initial_state(jax.random.key(plan.seed), config) if plan.state is None else plan.state
    if plan.done is not None:
        state, steps = jnp.asarray(start, float), plan.done
    else:
        state = jax.jit(sqg.make_advance(config, steps))(start) if steps else jnp.asarray(start, float)
    while True:
        if not jnp.isfinite(state).all():
            day = (plan.start + steps * config.dt) / DAY
            cure = f"use --dt below {config.dt:g} or --diff_efold below {config.diff_efold:g}"
            raise FloatingPointError(f"the state is not finite on day {day:g}; {cure}")
        yield steps, state
        if steps >= plan.spinup + plan.saves * plan.between:
            return
        state, steps = advance(state), steps + plan.between


def per_chunk(config: sqg.SQGConfig) -> int:
    """States read or written at a time: about a megabyte."""
    return max(1, 2**17 // config.N**2)


def save(plan: Plan, report: Callable[[float, str], None], stop: Stop | None = None) -> None:
    """Integrate, and write the states after spin-up, some at a time; whatever happens, the good ones are kept.

    Raises:
        Stopped: `stop` says so after an interval; all that is done is kept.
    """
    dt, waiting, done, stop = plan.config.dt, [], plan.done or 0, stop or Stop()
    first = round(plan.start / dt)  # a time is a number of steps, so that its rounding does not depend on restarts
    origin = plan.start - first * dt if abs(plan.start - first * dt) > 1e-6 * dt else 0.0
    made, kept = plan.extend, time.monotonic()
    if plan.extend:
        with replacing(plan.out) as hidden:
            shutil.copyfile(plan.out, hidden)
            netcdf.add_history(hidden, plan.attributes["history"])

    def write():
        nonlocal made
        if not waiting:
            return
        steps, states = zip(*waiting, strict=True)
        waiting.clear()
        own = origin + dt * (first + np.array(steps)), np.stack(states)
        if made:
            netcdf.append_states(plan.out, *own)
            return
        with replacing(plan.out) as hidden:
            netcdf.create_nature_run(hidden, plan.config, dtype=plan.dtype, **plan.attributes)
            netcdf.append_states(hidden, *own)
        _spinup_file(plan).unlink(missing_ok=True)
        made = True

    try:
        for steps, state in trajectory(plan):
            report((steps - done) * dt / DAY, "spin-up" if steps < plan.spinup else "saving")
            done = steps
            if steps >= plan.spinup and not (plan.extend and steps == 0):
                waiting.append((steps, state))
            elif steps < plan.spinup and (time.monotonic() - kept > KEEP_EVERY or stop()):
                _keep_spinup(plan, steps, state)
                kept = time.monotonic()
            if len(waiting) >= per_chunk(plan.config):
                write()
            stop.check()
    finally:
        write()


def _spinup_file(plan: Plan) -> Path:
    return plan.out.with_name(f".{plan.out.name}.spinup")


def _settings(plan: Plan) -> str:
    """What a state of the spin-up depends on."""
    own = dataclasses.asdict(plan.config), plan.spinup, plan.between, plan.dtype, plan.seed
    return json.dumps(own, sort_keys=True)


def _keep_spinup(plan: Plan, steps: int, state: jax.Array) -> None:
    with replacing(_spinup_file(plan)) as hidden, hidden.open("wb") as file:
        np.savez(file, steps=steps, state=np.asarray(state), settings=np.array(_settings(plan)))


def resumed(plan: Plan) -> Plan:
    """A plan from noise that goes on with the spin-up of an interrupted run of the same, if it left one."""
    try:
        with np.load(_spinup_file(plan), allow_pickle=False) as kept:
            settings, state, steps = str(kept["settings"]), kept["state"], int(kept["steps"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # then from the beginning
        return plan
    return dataclasses.replace(plan, state=state, done=steps) if settings == _settings(plan) else plan


def draw(out: Path, figure: Path) -> netcdf.NatureRun:
    """Draw the kinetic energy spectrum, mean over the file's states, and return the file."""
    run = netcdf.read_nature_run(out)
    energy = jax.jit(partial(sqg.kinetic_energy_spectrum, sqg.make_params(run.config)))
    some, total = per_chunk(run.config), 0.0
    for start in range(0, len(run.times), some):
        total += np.asarray(energy(netcdf.read_states(run, start, start + some)), float).sum(0)
    spectra = {f"z = {z:g} km": e for z, e in zip((0.0, run.config.H / 1000), total / len(run.times), strict=True)}
    days = run.times[[0, -1]] / DAY
    when = f"mean of {len(run.times)} states, day {days[0]:g} to {days[1]:g}"
    title = f"N = {run.config.N}, U = {run.config.U:g} m/s, {when}"
    spectrum_plots.spectrum(figure, spectra, run.config.L, title)
    return run
