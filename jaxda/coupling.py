"""What members are forecast by: the model, the truth's own, a trained surrogate, or the model and a learned correction.

A surrogate is carried through the cycles as an argument, its weights, so that it may learn between them
(`training/online.py`). A member that it makes something unusable of - not finite, or farther from the mean of its
training than any weather - is forecast by the model in its place, and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pydantic import ValidationError

from jaxda import surrogate, twin
from jaxda.config import WITH_WEIGHTS, ExperimentConfig
from jaxda.filters.baselines import Climate
from jaxda.forecast import lead_hours_of, make_step
from jaxda.models import sqg, vit
from jaxda.numerics import timestep
from jaxda.observations import Operator
from jaxda.parallel.mesh import over_members
from jaxda.settings import one_line
from jaxda.shown import in_brief
from jaxda.surrogate import SurrogateConfig, Trained, apply_of, model_of
from jaxda.training import online
from jaxda.training.dataset import HOURS_PER_DAY, DataConfig, Statistics
from jaxda.truth import MODELS, make_truth_advance, steps_in

#: how far a surrogate's statistics may be from the climate's: a factor of the standard deviation, parts of it
FACTOR, PARTS = 2.0, 1.0


class Forecaster(NamedTuple):
    """What a row of an experiment forecasts with.

    Attributes:
        model: what is carried from cycle to cycle, None or arrays.
        forecast: of `twin.coupled_cycle`, spread over the members' mesh.
        learn: of `twin.coupled_cycle`; None: it stays what it is.
        placed: how the model lies on the devices; None: whole on each.
    """

    model: Any
    forecast: twin.ModelForecast
    learn: twin.Learn | None = None
    placed: Any = None

    __repr__ = in_brief


def make_advance(config: ExperimentConfig) -> Callable[[Array], Array]:
    """States `(..., *shape)` -> the same one interval later by the model of the experiment's forecasts."""
    model = config.forecast_model
    return MODELS[model.kind].make_advance(model, steps_in(config.interval_hours, model), config.precision)


def make_forecaster(
    config: ExperimentConfig, name: str, operator: Operator, climate: Climate, mesh: Mesh
) -> Forecaster:
    """What one of the experiment's filters forecasts its members with.

    Args:
        operator: of the observations that a surrogate learns from.
        climate: of the experiment, which the statistics of a surrogate are compared with.
        mesh: that its members are spread over.

    Raises:
        ValueError: a surrogate that does not fit the experiment, with the filter's name.
    """
    kind = config.forecast_of(name)
    try:
        if kind == "model":
            forward = over_members(make_advance(config), mesh)
            return Forecaster(None, lambda key, number, model, ensemble: (forward(ensemble), 0))
        if kind == "perfect":
            advance = make_truth_advance(config)
            following = over_members(lambda states, number: advance(number, states), mesh)
            return Forecaster(None, lambda key, number, model, ensemble: (following(ensemble, number), 0))
        trained = make_surrogate(config, kind, climate, mesh)
        forecast = by_surrogate(config, trained, mesh)
        if config.filters[name].online:
            return learning(config, trained, forecast, operator, climate, mesh)
        return Forecaster(trained.params, forecast)
    except ValueError as error:
        raise ValueError(f"filters.{name}: {error}") from None


def check(config: ExperimentConfig) -> None:
    """Refuse surrogates that do not fit, as far as can be known without the climate, before anything is computed.

    Raises:
        ValueError: as `make_forecaster`.
    """
    first = {config.forecast_of(name): name for name in reversed(config.filters)}  # all of a kind have the same
    for kind, name in first.items():
        try:
            if kind in WITH_WEIGHTS:
                _read(config, kind)
        except ValueError as error:
            raise ValueError(f"filters.{name}: {error}") from None


def _read(config: ExperimentConfig, kind: str, climate: Climate | None = None, sharding=None) -> Trained | None:
    """The surrogate of a folder that fits the experiment; None: a hybrid that has no folder."""
    if config.model.kind != "sqg":
        raise ValueError(
            f'forecast = "{kind}" is of SQG, the experiment of {config.model.kind}; use forecast = "model"'
        )
    own = config.surrogate
    folder = own.folder if kind == "surrogate" else own.correction
    if folder is None and kind == "hybrid":
        return None
    if folder is None:
        raise ValueError('forecast = "surrogate" needs a trained one; give surrogate.folder, as train_vit.py wrote it')
    trained = surrogate.load(folder, own.checkpoint, sharding)
    try:
        require_fit(config, trained, climate, kind)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return trained


def make_surrogate(config: ExperimentConfig, kind: str, climate: Climate, mesh: Mesh) -> Trained:
    """The trained surrogate, or hybrid, of an experiment, on the devices of a mesh, each having it whole.

    Raises:
        ValueError: none is named, or its grid, levels, lead time or normalisation do not fit the experiment.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    trained = _read(config, kind, climate, everywhere)
    if trained is None:
        trained = _uncorrected(config, climate)
        trained = trained._replace(params=jax.device_put(trained.params, everywhere))
    return trained


def require_fit(config: ExperimentConfig, trained: Trained, climate: Climate | None, kind: str) -> None:
    """Raise ValueError unless grid, levels, lead time and (with a climate) normalisation are the experiment's.

    A hybrid has to correct the experiment's model, with all of its settings: with another it would not be told apart.
    """
    found, wanted = trained.config, config.forecast_model
    if found.hybrid != (kind == "hybrid"):
        cure = "give it as surrogate.correction" if found.hybrid else "train one with hybrid = true"
        raise ValueError(f'hybrid = {found.hybrid}, but forecast = "{kind}"; {cure}')
    if found.vit.variables != wanted.shape[0]:
        raise ValueError(f"levels = {found.vit.variables}, the experiment has {wanted.shape[0]}; train one with these")
    of_model = dataclasses.asdict(found.model)
    for name in of_model if found.hybrid else ("N", "L", "H", "symmetric"):
        was, now = of_model[name], getattr(wanted, name)
        if was != now:
            raise ValueError(f"{name} = {was}, the experiment has {now}; train one with that, or change model.{name}")
    leads(config, found)
    if climate is None:
        return
    mean, std = np.asarray(climate.mean.mean((1, 2))), np.asarray(jnp.sqrt(climate.variance.mean((1, 2))))
    for level, (m, s, own_mean, own_std) in enumerate(zip(mean, std, *trained.statistics, strict=True)):
        if not 1 / FACTOR < own_std / s < FACTOR or abs(own_mean - m) > PARTS * s:
            raise ValueError(
                f"normalisation of boundary {level} = {own_mean:.4g} +- {own_std:.4g} m/s, the climate of the "
                f"experiment is {m:.4g} +- {s:.4g}; train one on its states"
            )


def leads(config: ExperimentConfig, found: SurrogateConfig) -> tuple[float, int]:
    """The lead of the surrogate's steps [h] and how many make an interval; raises ValueError where none does."""
    own = config.surrogate.lead_hours
    trained = found.data.lead_hours if own is None else (lead_hours_of(found, own),)
    divide = lambda hours: abs(config.interval_hours / hours - round(config.interval_hours / hours)) < 1e-6
    fitting = [hours for hours in trained if hours <= config.interval_hours and divide(hours)]
    if not fitting:
        there = ", ".join(f"{hours:g}" for hours in trained)
        wrong = f"lead_hours = {there} does not divide the cycle, interval_hours = {config.interval_hours:g}"
        raise ValueError(f"{wrong}; use a multiple, or train one with a divisor")
    return fitting[0], round(config.interval_hours / fitting[0])


def _uncorrected(config: ExperimentConfig, climate: Climate) -> Trained:
    """A hybrid before its training: its network adds nothing."""
    data = DataConfig(lead_hours=(config.interval_hours,))
    try:
        network = dataclasses.replace(config.surrogate.network, image_size=config.model.shape[-1])
        settings = SurrogateConfig(hybrid=True, model=config.forecast_model, vit=network, data=data)
    except ValidationError as error:
        raise ValueError(f"surrogate.network: {one_line(error)}") from None
    params = vit.init(jax.random.key(config.seed), network)
    last = params["trunk"]["head"][len(params["trunk"]["head"]) - 1]
    params["trunk"]["head"][len(params["trunk"]["head"]) - 1] = jax.tree.map(jnp.zeros_like, last)
    mean, std = (np.asarray(a, np.float64) for a in (climate.mean.mean((1, 2)), climate.variance.mean((1, 2)) ** 0.5))
    return Trained(settings, Statistics(mean, std), params, 0)


def make_interval(config: ExperimentConfig, trained: Trained) -> Callable:
    """A pure function (params, states `(..., 2, N, N)` in m/s) -> the same one interval later, by the surrogate."""
    hours, count = leads(config, trained.config)
    step = make_step(trained.config, trained.statistics, hours)
    return lambda params, states: timestep.repeated(partial(step, params), count)(states)


def by_surrogate(config: ExperimentConfig, trained: Trained, mesh: Mesh) -> twin.ModelForecast:
    """Forecasts by a surrogate whose weights are the model of the cycle; members it fails on are replaced."""
    own, interval = config.surrogate, make_interval(config, trained)
    instead = make_advance(config) if own.fallback == "model" else lambda states: states
    forward = over_members(lambda states, params: interval(params, states), mesh)
    rescue = over_members(instead, mesh)

    def usable(ensemble):
        size = jnp.abs(trained.statistics.normalise(ensemble))
        return jnp.all(size <= own.limit, axis=(1, 2, 3))  # false where it is not a number

    def forecast(key, number, params, ensemble):
        after = forward(ensemble, params)
        lost = ~usable(after)
        both = lambda: jnp.where(lost[:, None, None, None], rescue(ensemble), after)
        # the model runs in those cycles alone in which it is needed
        return jax.lax.cond(lost.any(), both, lambda: after), lost.sum()

    return forecast


def learning(
    config: ExperimentConfig,
    trained: Trained,
    forecast: twin.ModelForecast,
    operator: Operator,
    climate: Climate,
    mesh: Mesh,
) -> Forecaster:
    """A surrogate that learns in the cycle; its forecasts are those of `by_surrogate`, with the weights it has then.

    The samples that it shall not forget are states of the climate, and what the model of its training makes of them in
    a lead; of a hybrid, whose correction the model knows nothing of, what it makes of them itself before it learns.
    """
    name = "online_correction" if trained.config.hybrid else "online"
    own, (hours, count) = getattr(config, name), leads(config, trained.config)
    days, states = hours / HOURS_PER_DAY, climate.states[:: -(-len(climate.states) // own.replay_states)]
    if trained.config.hybrid:
        teacher = partial(make_step(trained.config, trained.statistics, hours), trained.params)
    else:
        teacher = sqg.make_advance(trained.config.model, steps_in(hours, trained.config.model), states.dtype)
    after = jax.jit(partial(jax.lax.map, teacher))(states)
    if trained.config.hybrid and count == 1:
        network = partial(vit.apply, trained.config.vit)
        model = model_of(trained.config, trained.statistics)
        task = online.Task(network, trained.statistics, days, count, operator, model)
    else:
        task = online.Task(apply_of(*trained[:2]), trained.statistics, days, count, operator)
    try:
        layout = online.make_layout(own, list(mesh.devices.flat))
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
    before, after = map(trained.statistics.normalise, (states, after))
    learner = online.init(own, task, trained.params, (jax.jit(task.prepare)(before), after), layout)
    weights = partial(online.to_forecast, layout)
    by_weights = lambda key, number, learner, ensemble: forecast(key, number, weights(learner), ensemble)
    return Forecaster(learner, by_weights, online.make_learn(own, task, layout), online.shardings(layout, learner))
