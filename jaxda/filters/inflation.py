"""Keeping the spread of an analysis ensemble up."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def deviations(ensemble: Array) -> tuple[Array, Array]:
    """The mean `(...)` and the deviations from it `(M, ...)` of an ensemble `(M, ...)`."""
    mean = ensemble.mean(0)
    return mean, ensemble - mean


def spread(ensemble: Array) -> Array:
    """Standard deviation of the members at each point, `(...)`, with M - 1 degrees of freedom."""
    return jnp.std(ensemble, axis=0, ddof=1)


def rescaled(ensemble: Array, factor: Array) -> Array:
    """The ensemble with its deviations multiplied by `factor`, its mean unchanged."""
    mean, deviation = deviations(ensemble)
    return mean + factor * deviation


def relaxed_to(spread_target: Array, ensemble: Array, strength) -> Array:
    """Relax each point's spread s_a towards s: deviations times 1 + strength (s - s_a)/s_a.

    With the prior's spread as target this is RTPS (Whitaker & Hamill 2012, eq. 2). A point whose
    members all agree has no deviations to scale and stays as it is.
    """
    own = spread(ensemble)
    ratio = (spread_target - own) / jnp.where(own > 0, own, 1.0)
    return rescaled(ensemble, 1.0 + strength * jnp.where(own > 0, ratio, 0.0))
