"""What a filter has to beat: doing nothing, copying the observations, knowing only the climate.

Both analyses below know no flow: each point is estimated by itself, with diagonal variances, so they are
exact where observations sit on grid points.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxda.filters.inflation import deviations
from jaxda.observations import Observation, Operator, cleaned, likelihood_score, stiffness
from jaxda.settings import FilterSettings, described, settings
from jaxda.shown import in_brief

#: states of the climate that filters may draw from, at most, evenly spaced in time
CLIMATE_STATES = 100


@settings
class FreeRunConfig(FilterSettings):
    """No analysis: the ensemble runs on."""

    kind: Literal["free-run"] = described("free-run", "filter")


@settings
class ObservationsOnlyConfig(FilterSettings):
    """The observations themselves; the climate's mean where there are none."""

    kind: Literal["observations-only"] = described("observations-only", "filter")


@settings
class ClimatologyConfig(FilterSettings):
    """Optimal interpolation of the observations into the climate's mean."""

    kind: Literal["climatology"] = described("climatology", "filter")


class Climate(NamedTuple):
    """Mean and variance of the model's states, each `(*shape)`, and some of the states, `(T, *shape)`."""

    mean: Array
    variance: Array
    states: Array | None = None

    __repr__ = in_brief


def make_free_run():
    """The analysis that returns its ensemble."""
    return lambda key, ensemble, observation: ensemble


def make_observations_only(operator: Operator, climate: Climate):
    """Analysis: h^-1 of the observations, averaged where several touch a point, the climate's mean elsewhere.

    The members scatter around it with the error that h^-1 makes of sigma, at most the climate's spread.

    Raises:
        ValueError: an operator whose function has no inverse.

    Examples:
        >>> from jaxda import observations
        >>> operator = observations.make_operator(observations.ObservationConfig(operator="identity"), (2,))
        >>> climate = Climate(jnp.zeros(2), jnp.ones(2))
        >>> y = Observation(jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0]))
        >>> analysis = make_observations_only(operator, climate)
        >>> [abs(round(x, 3)) for x in analysis(jax.random.key(0), jnp.zeros((4, 2)), y).mean(0).tolist()]
        [2.0, 0.0]
    """
    if operator.function.invert is None:
        raise ValueError("observations-only needs the inverse of the operator's function; give PointFunction.invert")

    def analysis(key: Array, ensemble: Array, observation: Observation) -> Array:
        observation = cleaned(observation)
        sigma = jax.lax.rsqrt(jnp.where(observation.precision > 0, observation.precision, 1.0))
        state = operator.function.invert(observation.values, sigma)
        slope = jax.jvp(operator.function.apply, (state,), (jnp.ones_like(state),))[1]
        used = (observation.precision > 0) & jnp.isfinite(state) & jnp.isfinite(slope)
        touched = operator.spread(used.astype(ensemble.dtype))
        average = lambda values: operator.spread(jnp.where(used, values, 0.0)) / jnp.where(touched > 0, touched, 1.0)
        variance = jnp.minimum(average((sigma / slope) ** 2), climate.variance)
        mean = jnp.where(touched > 0, average(state), climate.mean)
        return _scattered(key, ensemble, mean, jnp.where(touched > 0, variance, climate.variance))

    return analysis


def make_climatology(operator: Operator, climate: Climate, iterations: int = 40, shrink: float = 0.85):
    """Analysis: the most probable state given the observations and N(mean, variance) at each point.

    Gauss-Newton on (x - m)^2 / v + |y - h(x)|^2 / sigma^2 with `observations.stiffness` for the Hessian: for a
    linear operator on grid points that is optimal interpolation, m + v/(v + R) (y - m). Where the operator
    saturates, full steps would jump for ever between the climate's mean and far beyond the data; so a step is at
    most `shrink`^k climate spreads, 1/(1 - shrink) of them in all.

    Examples:
        >>> from jaxda import observations
        >>> operator = observations.make_operator(observations.ObservationConfig(operator="identity"), (2,))
        >>> climate = Climate(jnp.zeros(2), jnp.ones(2))
        >>> y = Observation(jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0]))  # as precise as the climate; not observed
        >>> analysis = make_climatology(operator, climate)
        >>> [abs(round(x, 3)) for x in analysis(jax.random.key(0), jnp.zeros((4, 2)), y).mean(0).tolist()]
        [1.0, 0.0]
    """

    def analysis(key: Array, ensemble: Array, observation: Observation) -> Array:
        observation = cleaned(observation)

        def improve(x, radius):
            precision = 1.0 / climate.variance + stiffness(operator, observation, x)
            gradient = (climate.mean - x) / climate.variance + likelihood_score(operator, observation, x)
            limit = radius * jnp.sqrt(climate.variance)
            return x + jnp.clip(gradient / precision, -limit, limit), 1.0 / precision

        radii = shrink ** jnp.arange(iterations, dtype=ensemble.dtype)
        mean, variances = jax.lax.scan(improve, climate.mean.astype(ensemble.dtype), radii)
        return _scattered(key, ensemble, mean, variances[-1])

    return analysis


def _scattered(key: Array, ensemble: Array, mean: Array, variance: Array) -> Array:
    """Members with exactly this mean and, in expectation, this variance at each point."""
    noise = deviations(jax.random.normal(key, ensemble.shape, ensemble.dtype))[1]
    return mean + jnp.sqrt(variance) * noise


def climate_of(states: Array) -> Climate:
    """Mean and variance at each point, averaged along x too (the models do not know where x = 0 is); some states."""
    along_x = states.ndim - 1
    mean = states.mean((0, along_x), keepdims=True)
    variance = ((states - mean) ** 2).mean((0, along_x))
    shape = states.shape[1:]
    some = states[:: -(-len(states) // CLIMATE_STATES)]
    return Climate(jnp.broadcast_to(mean[0], shape), jnp.broadcast_to(variance[..., None], shape), some)
