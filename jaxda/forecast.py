"""Forecasts by a trained surrogate: its step, roll-outs, and how good they are beside the model that it learnt."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxda import diagnostics
from jaxda.models import sqg
from jaxda.numerics import timestep
from jaxda.output.starts import Starts
from jaxda.parallel.mesh import jitted, over_members
from jaxda.surrogate import SurrogateConfig, Trained, apply_of
from jaxda.training.dataset import HOURS_PER_DAY, Statistics

#: largest wavenumber whose variance is compared with the truth's
RESOLVED = 20


def lead_hours_of(config: SurrogateConfig, hours: float | None = None) -> float:
    """The lead of one step [h]: the first that the surrogate was trained with, or another of them.

    Raises:
        ValueError: it was not trained with that.
    """
    trained = config.data.lead_hours
    if hours is not None and hours not in trained:
        there = ", ".join(f"{one:g}" for one in trained)
        raise ValueError(f"lead_hours = {hours:g}: the surrogate was not trained with it; use one of {there}")
    return trained[0] if hours is None else hours


def make_step(config: SurrogateConfig, normalisation: Statistics, lead_hours: float | None = None) -> Callable:
    """The surrogate as a model: a pure function (params, states `(..., 2, N, N)` in m/s) -> the states one lead later.

    Args:
        config: of the training.
        normalisation: statistics of the states that it was trained with.
        lead_hours: one of its lead times [h]; None: the first.

    Raises:
        ValueError: another lead time.
    """
    days = lead_hours_of(config, lead_hours) / HOURS_PER_DAY
    apply = apply_of(config, normalisation)

    def step(params, states: Array) -> Array:
        x = normalisation.normalise(states).reshape(-1, *config.model.shape)
        after = apply(params, x, jnp.full(len(x), days, x.dtype))
        return normalisation.restore(after).reshape(states.shape)

    return step


def make_forecast(config: SurrogateConfig, normalisation: Statistics, lead_hours: float | None = None) -> Callable:
    """A compiled function (params, states `(..., 2, N, N)` in m/s, steps) -> states after 1 .. steps leads.

    The series has one more leading axis: `(steps, ..., 2, N, N)`. Arguments as for `make_step`.
    """
    step = make_step(config, normalisation, lead_hours)

    @partial(jax.jit, static_argnums=2)
    def forecast(params, states: Array, steps: int) -> Array:
        return timestep.trajectory(partial(step, params), steps, 1)(states)[1]

    return forecast


class Steps(NamedTuple):
    """Compiled steps of one lead, states `(B, 2, N, N)` in m/s -> the same: of the surrogate and of its model."""

    surrogate: Callable[[Array], Array]
    model: Callable[[Array], Array]
    lead_hours: float
    mesh: Mesh | None


def make_steps(trained: Trained, lead_hours: float | None = None, mesh: Mesh | None = None) -> Steps:
    """Surrogate and model side by side, on cases spread over a mesh.

    Args:
        lead_hours: of one step [h]; None: the first that the surrogate was trained with.
        mesh: of `jaxda.parallel.mesh.member_mesh`; None: one device.

    Raises:
        ValueError: a lead that surrogate or model cannot do.
    """
    config, hours = trained.config, lead_hours_of(trained.config, lead_hours)
    between = round(hours / config.model.step_hours)
    if between < 1 or abs(between * config.model.step_hours - hours) > 1e-6 * hours:
        raise ValueError(f"lead_hours = {hours:g} is not a multiple of the model's step, {config.model.step_hours:g} h")
    step = make_step(config, trained.statistics, hours)
    # each device its own: cut by the compiler, the transforms of a first guess fail on CPUs (jaxlib 0.10.2)
    spread = jitted(over_members(lambda states, params: step(params, states), mesh), mesh)
    params = placed(trained.params, mesh)
    model = jitted(over_members(sqg.make_advance(config.model, between), mesh), mesh)
    return Steps(lambda states: spread(states, params), model, hours, mesh)


def placed(tree, mesh: Mesh | None, *axes: str):
    """Arrays on the devices of a mesh: their leading axis along `axes`, or whole on each."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes)))


# Scores

#: names of the scores, in the order in which they are written; those of the model and of ensembles may be absent
SCORES = (
    *("rmse", "rmse_sqg", "persistence", "climatology", "correlation", "correlation_sqg", "persistence_correlation"),
    *("rmse_mean", "rmse_mean_sqg", "spread", "spread_sqg", "ratio_min", "ratio_max", "finite"),
)


def make_scores(config: SurrogateConfig, normalisation: Statistics) -> Callable:
    """A compiled function (start, forecast, model, truth) -> (scores, spectra) of one lead.

    States are `(S, M, 2, N, N)` in m/s, start times by members; the truth may have one member. `model` None: the truth
    is the model's forecast.

    Returns:
        Scores by name, in K but for correlations and ratios, over all starts, members and points:

        * `rmse`, `persistence` (of the start), `climatology` (of the training mean), `rmse_sqg` (of the model);
        * `correlation` of anomalies from the training mean, each boundary in units of its standard deviation;
        * of ensembles, `rmse_mean` of their means and `spread`; `_sqg` for the model's;
        * `ratio_min`, `ratio_max`: forecast's variance over truth's, least and largest up to wavenumber RESOLVED;
          `finite`: whether forecast (1) and truth are.

        Spectra of truth, forecast and error in K^2, `(N/2 + 1,)`, means over starts, members and boundaries.
    """
    kelvin = config.model.kelvin
    resolved = slice(1, min(RESOLVED, config.model.N // 2 - 1) + 1)
    rmse = lambda a, b: kelvin * diagnostics.rmse(a, b)
    anomaly = lambda a, b: diagnostics.anomaly_correlation(*map(normalisation.normalise, jnp.broadcast_arrays(a, b)))
    mean = lambda a: a.mean(1, keepdims=True)
    spread = lambda a: kelvin * jnp.sqrt(jnp.mean(a.var(1, ddof=1)))
    spectrum = lambda a: diagnostics.variance_spectrum(kelvin * a).mean((0, 1, 2))

    @jax.jit
    def scores(start, forecast, model, truth):
        climate = normalisation.restore(jnp.zeros_like(truth))
        found = {"rmse": rmse(forecast, truth), "persistence": rmse(start, truth), "climatology": rmse(climate, truth)}
        found |= {"correlation": anomaly(forecast, truth), "persistence_correlation": anomaly(start, truth)}
        if model is not None:
            found |= {"rmse_sqg": rmse(model, truth), "correlation_sqg": anomaly(model, truth)}
        if start.shape[1] > 1:
            found |= {"rmse_mean": rmse(mean(forecast), mean(truth)), "spread": spread(forecast)}
            found["spread_sqg"] = spread(truth if model is None else model)
            if model is not None:
                found["rmse_mean_sqg"] = rmse(mean(model), truth)
        spectra = {"truth": spectrum(truth), "forecast": spectrum(forecast), "error": spectrum(forecast - truth)}
        ratio = spectra["forecast"][resolved] / spectra["truth"][resolved]
        found |= {"ratio_min": ratio.min(), "ratio_max": ratio.max()}
        found["finite"] = (jnp.isfinite(forecast).all() & jnp.isfinite(truth).all()).astype(jnp.int32)
        return found, spectra

    return scores


def stability(spectra: dict[str, np.ndarray]) -> tuple[float, float]:
    """Least and largest ratio of forecast's to truth's variance, up to RESOLVED, over the last third of the leads.

    Both are averaged over those leads first: the few waves of a small wavenumber vary whatever forecasts them.

    Args:
        spectra: `truth` and `forecast` by lead from 0 on, `(k, N/2 + 1)`.
    """
    count, size = spectra["truth"].shape
    part = slice(count - max(1, count // 3), None), slice(1, min(RESOLVED, size - 2) + 1)
    ratio = spectra["forecast"][part].mean(0) / spectra["truth"][part].mean(0)
    return float(ratio.min()), float(ratio.max())


def verdict(scores: dict[str, np.ndarray], spectra: dict[str, np.ndarray], seconds: tuple[float, float]) -> list[str]:
    """What a forecast says of its stability and cost, in lines.

    Args:
        scores, spectra: of all leads, from 0 on.
        seconds: of `seconds_per_step`.
    """
    finite, steps = scores["finite"].astype(bool), len(scores["finite"]) - 1
    waves = f"variance over the truth's, wavenumbers 1 to {min(RESOLVED, spectra['truth'].shape[1] - 2)}"
    least, most = stability(spectra)
    at_once = f"{scores['ratio_min'].min():.3g} to {scores['ratio_max'].max():.3g} at single leads"
    lines = [
        f"finite: all {steps} leads" if finite.all() else f"not finite from lead {np.argmin(finite)} of {steps} on",
        f"{waves}: {least:.3g} to {most:.3g} in the mean of the last third of the leads, {at_once}",
    ]
    ratio = f"{seconds[1] / seconds[0]:.3g} times as fast" if seconds[0] else ""
    return [*lines, f"a lead of all starts: surrogate {seconds[0]:.3g} s, SQG {seconds[1]:.3g} s, {ratio}"]


# Roll-outs


class Lead(NamedTuple):
    """One lead: its number, states `(S, M, 2, N, N)` [m/s], scores by name, spectra `(N/2 + 1,)` by name [K^2].

    The truth has one member where it is not the model's forecast of each.
    """

    number: int
    forecast: Array
    truth: Array
    scores: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]


def roll_out(trained: Trained, step: Steps, starts: Starts, count: int) -> Iterator[Lead]:
    """Forecast `count` leads from every start, beside the model; lead 0, the starts, comes first."""
    score, shape = make_scores(trained.config, trained.statistics), starts.states.shape
    ours = theirs = _cases(step, starts)
    start = ours.reshape(shape)
    for number in range(count + 1):
        if number:
            ours, theirs = step.surrogate(ours), step.model(theirs)
        forecast, by_model = ours.reshape(shape), theirs.reshape(shape)
        own = starts.later is not None
        truth = jnp.asarray(starts.later(number)) if own else by_model
        found = score(start, forecast, by_model if own else None, truth)
        yield Lead(number, forecast, truth, *jax.tree.map(np.asarray, found))


def _cases(step: Steps, starts: Starts) -> Array:
    states = np.asarray(starts.states, np.float32)
    return placed(states.reshape(-1, *states.shape[2:]), step.mesh, "member")


def stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Scores or spectra of leads in order, one leading axis more."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def seconds_per_step(step: Steps, starts: Starts, repeats: int = 5) -> tuple[float, float]:
    """Time of one lead of all starts by surrogate and model [s]: medians of calls in turns, after a first."""
    cases, times = _cases(step, starts), ([], [])
    for number in range(repeats + 1):
        for call, own in zip((step.surrogate, step.model), times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(call(cases))
            if number:
                own.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])
