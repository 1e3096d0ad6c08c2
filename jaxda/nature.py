"""Nature runs: long integrations of the SQG model, written as they go, and what they look like.

Host code: the compiled part is one interval of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxda.models import sqg
from jaxda.output import netcdf, spectrum_plots

DAY = 86400.0


@dataclass(frozen=True)
class Plan:
    """A nature run that has been checked and can be done.

    Attributes:
        config: the model's settings.
        spinup, between, saves: steps before the first saved state and between saved ones, and how many of these follow.
        state, start: PV `(2, N, N)` in m/s to go on from and its time [s]; None starts from noise of `seed`.
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


def save(plan: Plan, report: Callable[[float, str], None]) -> None:
    """Integrate, and write the states after spin-up, some at a time; whatever happens, the good ones are kept."""
    dt, waiting, done = plan.config.dt, [], 0
    first = round(plan.start / dt)  # a time is a number of steps, so that its rounding does not depend on restarts
    origin = plan.start - first * dt if abs(plan.start - first * dt) > 1e-6 * dt else 0.0

    def write():
        if waiting:
            steps, states = zip(*waiting, strict=True)
            waiting.clear()
            history = plan.attributes["history"] if plan.extend and steps[0] == plan.between else ""
            netcdf.append_states(plan.out, origin + dt * (first + np.array(steps)), np.stack(states), history)

    try:
        for steps, state in trajectory(plan):
            report((steps - done) * dt / DAY, "spin-up" if steps < plan.spinup else "saving")
            done = steps
            if steps == plan.spinup and not plan.extend:
                netcdf.create_nature_run(plan.out, plan.config, dtype=plan.dtype, **plan.attributes)
            if steps >= plan.spinup and not (plan.extend and steps == 0):
                waiting.append((steps, state))
            if len(waiting) >= per_chunk(plan.config):
                write()
    finally:
        write()


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
