"""Whether the error statistics that an analysis assumed agree with its innovations: no truth is needed."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Consistency(NamedTuple):
    """Variances that innovations tell, each over the observation error's variance that was assumed.

    Attributes:
        innovation: of observations minus forecast, H B H^T + R.
        background: of the forecast's error, H B H^T.
        observation: of the observations' error, R: 1 where what was assumed is right.
        analysis: of the analysis's error, H A H^T.
    """

    innovation: Array
    background: Array
    observation: Array
    analysis: Array


def desroziers(values: Array, precision: Array, forecast: Array, analysis: Array) -> Consistency:
    """Consistency of an analysis in the space of the observations (Desroziers et al. 2005, eqs. 1-4).

    With d_b = y - H x_b, d_a = y - H x_a and d_ab = H x_a - H x_b, if B and R of the analysis are those of the errors,

        E[d_b d_b^T] = H B H^T + R,  E[d_ab d_b^T] = H B H^T,  E[d_a d_b^T] = R,  E[d_ab d_a^T] = H A H^T

    (Q. J. R. Meteorol. Soc. 131, 3385-3396). Returned are the means of their diagonals over the observations, each
    times its precision. The first is always the sum of the next two.

    Args:
        values, precision: of the observations, 1/sigma^2; those with precision 0, or a value that is not finite, do
            not count.
        forecast, analysis: H of the ensembles' means, of the same shape.

    Examples:
        >>> y = jnp.array([1.0, -1.0])
        >>> [round(float(part), 3) for part in desroziers(y, jnp.ones(2), forecast=0.0 * y, analysis=0.5 * y)]
        [1.0, 0.5, 0.5, 0.25]
    """
    given = (precision > 0) & jnp.isfinite(values)
    number = jnp.maximum(given.sum(), 1)
    before, after = (jnp.where(given, values - at, 0.0) for at in (forecast, analysis))
    change = before - after
    mean = lambda a, b: jnp.sum(jnp.where(given, precision, 0.0) * a * b) / number
    return Consistency(mean(before, before), mean(change, before), mean(after, before), mean(change, after))
