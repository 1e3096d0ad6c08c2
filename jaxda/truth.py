"""The truth's model from an experiment's settings, its forcing constant or changing with the cycles.

It makes the truth, and it is the perfect model: the best forecast that any filter could be given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.config import ExperimentConfig
from jaxda.models import lorenz96, sqg
from jaxda.numerics import spectral
from jaxda.output import netcdf

MODELS = {"sqg": sqg, "lorenz96": lorenz96}


def steps_in(hours: float, model) -> int:
    """Time steps of a model in an interval; the settings have checked that it is a whole number."""
    return round(hours / model.step_hours)


def forcing_of(config: ExperimentConfig) -> sqg.Forcing:
    """The truth's forcing after each cycle, `(cycles,)` each: at the middle of the interval to the next."""
    schedule, model = config.nature.schedule, config.truth_model
    days = config.interval_hours / 24.0 * (np.arange(config.cycles) + 0.5)
    series = lambda name: schedule[name].at(days) if name in schedule else np.full(len(days), getattr(model, name))
    return sqg.Forcing(*(jnp.asarray(series(name), config.precision) for name in sqg.Forcing._fields))


def make_truth_advance(config: ExperimentConfig) -> Callable[[Array, Array], Array]:
    """The truth's model as a function (number of a cycle, states then) -> states one interval on.

    States are `(..., *shape)` on the truth's grid, in the unit of the model. The number may be traced; from that of
    the last cycle on the forcing stays what it is. Within an interval it is constant, with the value at the middle,
    for truth and forecasts alike; docs/online.md has how near that is to forcing that changes at each step.
    """
    model = config.truth_model
    steps = steps_in(config.interval_hours, model)
    if not config.nature.schedule:
        constant = MODELS[model.kind].make_advance(model, steps, config.precision)
        return lambda number, states: constant(states)
    forced, series = sqg.make_forced_advance(model, steps, config.precision), forcing_of(config)
    return lambda number, states: forced(jax.tree.map(lambda values: values[number], series), states)


def stored_nature(config: ExperimentConfig) -> tuple[netcdf.NatureRun, int, int, int]:
    """The file of an experiment's nature run; first and last number of the states to read, and the stride.

    The last is the first true state; those before it are the climate's.

    Raises:
        ValueError: a file that cannot be read, of another model, with other times or too short.
    """
    path, model = config.nature.file, config.truth_model
    if model.kind != "sqg":
        raise ValueError(f'nature.file = "{path}": files hold SQG states; leave it out for {model.kind}')
    run = netcdf.read_nature_run(path)
    for name in ("N", "L", "H", "U", "symmetric", "r", "tdiab", "f", "nsq", "dealias", "jacobian"):
        found, wanted = getattr(run.config, name), getattr(model, name)
        if found != wanted and not (isinstance(found, float) and np.isclose(found, wanted, rtol=1e-5)):
            raise ValueError(f"{path}: {name} = {found} in the file, {wanted} in the experiment; set model.{name}")
    hours = run.times / 3600.0
    stride = round(config.interval_hours / (hours[1] - hours[0])) if len(hours) > 1 else 0
    if stride < 1 or not np.allclose(np.diff(hours) * stride, config.interval_hours):
        wrong = f"saved every {hours[1] - hours[0]:g} h" if len(hours) > 1 else "holds one state"
        raise ValueError(f"{path}: {wrong}, interval_hours = {config.interval_hours:g} must be a multiple")
    first = int(np.searchsorted(hours, 24.0 * config.nature.spinup_days))
    last = first + round(24 * config.nature.climate_days / config.interval_hours) * stride
    if last >= len(hours):
        ends, needs = hours[-1] / 24, 24 * config.nature.spinup_days + (last - first) * (hours[1] - hours[0])
        raise ValueError(f"{path}: ends on day {ends:g}, needed until {needs / 24:g}; use less nature.climate_days")
    return run, first, last, stride


def on_grid(states: Array, shape: tuple[int, ...]) -> Array:
    """States `(T, ...)` on the grid of `shape`: spectrally truncated where theirs is finer."""
    return states if states.shape[1:] == shape else jax.jit(partial(spectral.resample, n=shape[-1]))(states)
