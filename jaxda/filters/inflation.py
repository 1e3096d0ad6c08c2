"""Keeping the spread of an ensemble up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def deviations(ensemble: Array, axis: str | None = None) -> tuple[Array, Array]:
    """The mean `(...)` and the deviations from it `(M, ...)` of an ensemble `(M, ...)`.

    Here and below `axis` names the axis of a mesh over whose devices the members are spread, inside of a function that
    every device runs on its own members, as many as any other: the mean of all is one all-reduce of a state.
    """
    mean = ensemble.mean(0)
    if axis is not None:
        mean = jax.lax.pmean(mean, axis)
    return mean, ensemble - mean


def spread(ensemble: Array) -> Array:
    """Standard deviation of the members at each point, `(...)`, with M - 1 degrees of freedom."""
    return size_of(deviations(ensemble)[1])


def size_of(deviation: Array, axis: str | None = None) -> Array:
    """The spread `(...)` of deviations `(M, ...)` from their mean; over an axis one all-reduce of a state.

    The mean comes first, in a reduction of its own. Sums of squares of the members would spare that one, and lose what
    single precision has where the spread is a thousandth of the mean.
    """
    if axis is None:
        return jnp.sqrt((deviation**2).sum(0) / (len(deviation) - 1))
    members = len(deviation) * jax.lax.axis_size(axis)
    return jnp.sqrt(jax.lax.psum((deviation**2).sum(0), axis) / (members - 1))


def rescaled(ensemble: Array, factor: Array) -> Array:
    """The ensemble with its deviations multiplied by `factor`, its mean unchanged."""
    mean, deviation = deviations(ensemble)
    return mean + factor * deviation


def relaxed_to(spread_target: Array, ensemble: Array, strength, axis: str | None = None) -> Array:
    """Relax each point's spread s_a towards s: deviations times 1 + strength (s - s_a)/s_a.

    With the prior's spread as target this is RTPS (Whitaker & Hamill 2012, eq. 2). A point whose
    members all agree has no deviations to scale and stays as it is.
    """
    mean, deviation = deviations(ensemble, axis)
    own = size_of(deviation, axis)
    ratio = (spread_target - own) / jnp.where(own > 0, own, 1.0)
    return mean + (1.0 + strength * jnp.where(own > 0, ratio, 0.0)) * deviation


#: least factor on the forecast's covariance, as in Li, Kalnay & Miyoshi (2009): a noisy estimate must not collapse it
LEAST_FACTOR = 0.9


def covariance_factor(
    innovation: Array, variance: Array, precision: Array, taper: Array, gram: Array, prior_sd: float
) -> Array:
    """Factor lambda `(...)` that the observations of a region ask for on the forecast's covariance P.

    Were P too small by the factor lambda, innovations d = y - h(mean) would have (Li, Kalnay & Miyoshi 2009,
    Q. J. R. Meteorol. Soc. 135, 523-533)

        E[d d^T] = R + lambda H P H^T.

    With tapers w_j, R = diag(1/r_j), s_j = r_j (H P H^T)_jj and the ensemble's gram G = Y^T W R^-1 Y, so that
    S = sum_j w_j s_j = tr G / (M - 1), the trace of that gives an estimate without bias (Miyoshi 2011, Mon. Wea.
    Rev. 139, 1519-1535) and, for Gaussian innovations with just this covariance, its error variance at lambda = 1:

        lambda_o = sum_j w_j (r_j d_j^2 - 1) / S,
        v_o      = 2 V / S^2,    V = sum_ij w_i w_j (delta_ij + r_i^(1/2) (H P H^T)_ij r_j^(1/2))^2
                                   = sum_j w_j^2 (1 + 2 s_j) + |G|_F^2 / (M - 1)^2.

    V counts neighbours whose forecast errors go together as the few independent ones that they are; for independent
    ones and w = 1 it is Miyoshi's. The members' chance correlations make it larger, which is the careful side.
    Like there, lambda_o is then combined with the prior value 1 of error variance b = prior_sd^2, whose mean here is
    the same at every cycle because an analysis has no memory:

        lambda = 1 + b (lambda_o - 1) / (b + v_o), not below LEAST_FACTOR; 1 where nothing is observed.

    Args:
        innovation: d `(..., P)`; finite where nothing is observed too.
        variance: of the members' h, diagonal of H P H^T, `(..., P)`, with M - 1 degrees of freedom. For a nonlinear
            h these are the members' own values, not those of a derivative.
        precision: r `(..., P)`, 0 where nothing is observed.
        taper: w `(..., P)`.
        gram: G `(..., M, M)` with these tapers.
        prior_sd: standard deviation of the prior of lambda.
    """
    m = gram.shape[-1]
    weight = jnp.where(precision > 0, taper, 0.0)
    share = precision * variance
    total = (weight * share).sum(-1)
    excess = (weight * (precision * innovation**2 - 1.0 - share)).sum(-1)
    v = 2.0 * ((weight**2 * (1.0 + 2.0 * share)).sum(-1) + (gram**2).sum((-1, -2)) / (m - 1.0) ** 2)
    b = prior_sd**2
    seen = total > 0
    change = b * total * excess / jnp.where(seen, b * total**2 + v, 1.0)
    return jnp.maximum(1.0 + jnp.where(seen, change, 0.0), LEAST_FACTOR)


def with_climate_differences(key: Array, ensemble: Array, states: Array, scale: float) -> Array:
    """The ensemble with `scale` (c - c')/sqrt(2) added to each member, its mean unchanged (additive inflation).

    The pairs c != c' are drawn at random among climate states `(T, ...)`, T >= 2, after Whitaker & Hamill (2012, Mon.
    Wea. Rev. 140, 3078-3089). A difference of two such states has twice their sample covariance C, so what the
    ensemble's gains is scale^2 C in expectation.
    """
    members, count = len(ensemble), len(states)
    key_one, key_other = jax.random.split(key)
    one = jax.random.randint(key_one, (members,), 0, count)
    other = (one + jax.random.randint(key_other, (members,), 1, count)) % count
    states = jnp.asarray(states, ensemble.dtype)
    difference = states[one] - states[other]
    return ensemble + scale * 2**-0.5 * deviations(difference)[1]
