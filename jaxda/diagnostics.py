"""Measures of an ensemble against the truth: pure functions of arrays."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def rmse(estimate: Array, truth: Array) -> Array:
    """Root of the mean squared difference over all points, in the unit of the states."""
    return jnp.sqrt(jnp.mean((estimate - truth) ** 2))


def mean_spread(ensemble: Array) -> Array:
    """Root of the ensemble variance averaged over all points, M - 1 degrees of freedom.

    For a reliable ensemble its square is M/(M + 1) of the squared `rmse` of the mean, in expectation
    (Fortin et al. 2014, J. Hydrometeor. 15, eq. 15).
    """
    return jnp.sqrt(jnp.mean(jnp.var(ensemble, axis=0, ddof=1)))
