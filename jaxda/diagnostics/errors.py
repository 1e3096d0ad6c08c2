"""Errors of an estimate, and the spread that should tell them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


def rmse(estimate: Array, truth: Array) -> Array:
    """Root of the mean squared difference over all points, in the unit of the states.

    Examples:
        >>> round(float(rmse(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))), 3)
        1.414
    """
    return jnp.sqrt(jnp.mean((estimate - truth) ** 2))


def bias(estimate: Array, truth: Array) -> Array:
    """Mean difference over all points, in the unit of the states.

    Examples:
        >>> float(bias(jnp.array([1.0, 4.0]), jnp.array([1.0, 1.0])))
        1.5
    """
    return jnp.mean(estimate - truth)


def mean_spread(ensemble: Array) -> Array:
    """Root of the ensemble variance averaged over all points, M - 1 degrees of freedom.

    For a reliable ensemble its square is M/(M + 1) of the squared `rmse` of the mean, in expectation
    (Fortin et al. 2014, J. Hydrometeor. 15, eq. 15).

    Examples:
        >>> float(mean_spread(jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])))
        2.0
    """
    return jnp.sqrt(jnp.mean(jnp.var(ensemble, axis=0, ddof=1)))


def anomaly_correlation(forecast: Array, truth: Array) -> Array:
    """Correlation of two anomalies over all points, not centred: 1 for equal ones, 0 for a forecast that knows nothing.

    Wilks 2019, "Statistical Methods in the Atmospheric Sciences", Sec. 9.8 (the uncentred form).

    Examples:
        >>> float(anomaly_correlation(jnp.array([1.0, -2.0]), jnp.array([2.0, -4.0])))
        1.0
    """
    return jnp.sum(forecast * truth) / jnp.sqrt(jnp.sum(forecast**2) * jnp.sum(truth**2))


class SpreadSkill(NamedTuple):
    """Points in each bin of the spread, sums of their ensemble variances and of the mean's squared errors, `(B,)`."""

    points: Array
    variance: Array
    square: Array


def spread_skill(spread: Array, error: Array, edges: Array) -> SpreadSkill:
    """Points by their spread, and what errors they have: sums, so that those of many cycles add up.

    In each bin of a reliable ensemble variance/points is M/(M + 1) of square/points: not only on the whole, as for
    `mean_spread`, but wherever and whenever the ensemble says that its error is large (Leutbecher & Palmer 2008, J.
    Comput. Phys. 227, 3515-3539).

    Args:
        spread: standard deviation of the members at each point, any shape; error: of the mean, the same.
        edges: `(B - 1,)` increasing; the first and the last bin hold all below and above.

    Examples:
        >>> found = spread_skill(jnp.array([0.5, 0.5, 2.0]), jnp.array([0.0, 0.5, 1.0]), jnp.array([1.0]))
        >>> found.points.tolist(), found.variance.tolist(), found.square.tolist()
        ([2.0, 1.0], [0.5, 4.0], [0.25, 1.0])
    """
    spread, error = spread.ravel(), error.ravel()
    which = jnp.searchsorted(edges, spread)
    total = lambda values: jnp.zeros(len(edges) + 1, spread.dtype).at[which].add(values)
    return SpreadSkill(total(jnp.ones_like(spread)), total(spread**2), total(error**2))
