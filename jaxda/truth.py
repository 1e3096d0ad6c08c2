"""The truth's model from an experiment's settings, its forcing constant or changing with the cycles.

It makes the truth, and it is the perfect model: the best forecast that any filter could be given.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.config import ExperimentConfig
from jaxda.models import lorenz96, sqg

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
