"""The local ensemble transform Kalman filter (Hunt, Kostelich & Szunyogh 2007, Physica D 230, 112-126).

At each column, with member deviations X (state) and Y (observed), innovation d and the inverse error
variances R^-1 times a Gaspari-Cohn taper (their Sec. 2.3 and eqs. 20-25):

    A = (M - 1) I + Y^T R^-1 Y,
    analysis = mean + X [ sqrt(M - 1) A^(-1/2) + A^-1 Y^T R^-1 d ],

with the symmetric square root A^(-1/2). The columns are done in batches of gathers of a fixed size, or by convolutions
where many observations are in reach (`normal_equations`).

With `adaptive`, the innovations first say by which factor lambda the forecast's covariance is too small
(`inflation.covariance_factor`); X and Y of a column are then multiplied by sqrt(lambda), which is the forecast that
everything after sees, the relaxation to its spread too. With `additive`, differences of climate states are added to
the analysis at last, so that the next forecast has directions which the members had lost.

With a mesh one all-gather gives every device the whole ensemble, M S bytes with S those of a state; each analyses its
part of the columns, and another, of as much, gives every device the whole result, of which it keeps its members.
Convolutions are shared too, and gathered, (M + 3)/2 times M S bytes. Columns that fill up the last batches are gathered
with the others, with regional inflation its factor as one member more; without a cut-off there are no columns, and no
second gather. No collective is in a loop.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxda.filters.inflation import (
    covariance_factor,
    deviations,
    relaxed_to,
    rescaled,
    spread,
    with_climate_differences,
)
from jaxda.filters.localization import Geometry, make_neighbours, vertical_taper
from jaxda.filters.normal_equations import batch_of, convolved, convolves, normal_equations, picked, reach_of
from jaxda.numerics.matrices import inverse_square_root
from jaxda.observations import Observation, Operator, cleaned
from jaxda.parallel.mesh import over_columns, with_all_members
from jaxda.settings import Count, FilterSettings, Fraction, Length, NonNegative, Positive, described, settings


@settings
class LETKFConfig(FilterSettings):
    """Settings of the LETKF."""

    kind: Literal["letkf"] = described("letkf", "filter")
    cutoff: Length = described(2000.0, "zero radius of the taper, inf for none [km; grid points for Lorenz-96]")
    vertical_taper: Fraction | None = described(
        None, "weight of the other boundary's observations; from the Rossby radius where left out [1]"
    )
    rtps: Fraction = described(0.3, "relaxation to prior spread [1]")
    inflation: Positive = described(1.0, "factor on the analysis deviations [1]")
    adaptive: Literal["none", "global", "regional"] = described(
        "none", "factor on the forecast's covariance from the innovations: none, one for all, or one a column"
    )
    adaptive_sd: Positive = described(1.0, "standard deviation of the prior of that factor, whose mean is 1 [1]")
    additive: NonNegative = described(
        0.0, "climate's spread times this added to the analysis deviations, as differences of its states [1]"
    )
    rotation: bool = described(False, "rotate the analysis deviations at random, keeping mean and covariance")
    batch: Count | None = described(None, "columns done at once on a device, at most; what suits it where left out [1]")


def ensemble_transform(gram: Array, projected: Array) -> Array:
    """Weights `(..., M, M)` of the members: the bracket of the module's docstring, symmetric part plus mean part.

    Args:
        gram: Y^T R^-1 Y, `(..., M, M)`.
        projected: Y^T R^-1 d, `(..., M)`.
    """
    m = gram.shape[-1]
    root = inverse_square_root(gram + (m - 1) * jnp.eye(m, dtype=gram.dtype), m - 1.0)
    mean_weights = root @ (root @ projected[..., None])
    return jnp.sqrt(m - 1.0).astype(gram.dtype) * root + mean_weights


def make_analysis(
    config: LETKFConfig, geometry: Geometry, operator: Operator, mesh=None, climate_states: Array | None = None
):
    """The LETKF as a function (key, ensemble, observation) -> ensemble.

    Args:
        mesh: devices over which the columns are spread; None for one.
        climate_states: `(T, *shape)`, whose differences `additive` adds; None where that is 0.

    Raises:
        ValueError: a cut-off under the grid spacing, so that points between observations see none of them;
            `additive` without two climate states.

    Examples:
        >>> from jaxda import observations
        >>> operator = observations.make_operator(observations.ObservationConfig(operator="identity"), (8,))
        >>> geometry = Geometry((8,), spacing=1.0)  # a circle of 8 points
        >>> analysis = jax.jit(make_analysis(LETKFConfig(cutoff=3.0, rtps=0.0), geometry, operator))
        >>> ensemble = jax.random.normal(jax.random.key(0), (6, 8))
        >>> found = analysis(jax.random.key(1), ensemble, Observation(jnp.full(8, 2.0), jnp.full(8, 100.0)))
        >>> bool(jnp.abs(found.mean(0) - 2.0).max() < jnp.abs(ensemble.mean(0) - 2.0).max())
        True
    """
    if config.cutoff < geometry.spacing:
        raise ValueError(f"cutoff = {config.cutoff:g} is under the grid spacing; use at least {geometry.spacing:g}")
    if math.isinf(config.cutoff) and config.vertical_taper not in (None, 1.0) and geometry.levels > 1:
        taper = config.vertical_taper
        raise ValueError(f"vertical_taper = {taper:g} with cutoff = inf: all observations count fully; leave one out")
    if config.additive > 0 and (climate_states is None or len(climate_states) < 2):
        raise ValueError(f"additive = {config.additive:g} needs two climate states or more; give climate_states, or 0")
    global_weights = math.isinf(config.cutoff)
    regional = config.adaptive == "regional" and not global_weights  # without a cut-off the region is everything
    taper_between_levels = jnp.asarray(vertical_taper(geometry, config.cutoff, config.vertical_taper))
    by_convolution = convolves(geometry, operator, config.cutoff) and not regional
    if not global_weights and not by_convolution:
        neighbours = make_neighbours(geometry, operator, config.cutoff)
    n_columns = math.prod(geometry.columns)

    def mixed(gram, projected):
        """Observations of all levels as each level believes them, `(C, levels, M, M)` and `(C, levels, M)`."""
        mix = taper_between_levels.astype(gram.dtype)
        return jnp.einsum("kl,lcmn->ckmn", mix, gram), jnp.einsum("kl,lcm->ckm", mix, projected)

    def transformed(columns, x, gram, projected):
        return jnp.einsum("ckm,ckmn->ckn", x[columns], ensemble_transform(gram, projected))

    def of_convolved(columns, x, entries):
        """What `at_columns` gives, from the entries of `convolved`."""
        return transformed(columns, x, *mixed(*picked(entries, columns)))

    def at_columns(columns, x, y, innovation, precision):
        """Analysis deviations `(C, levels, M)` at columns `(C,)` from x `(columns, levels, M)` and y `(P, M)`.

        With regional inflation the square root of its factor comes last, `(C, levels, M + 1)`.
        """
        index, taper = neighbours(columns)
        near, seen, taper = y[index], precision[index], taper.astype(y.dtype)
        gram, projected = normal_equations(near, innovation[index], taper * seen)
        gram, projected = mixed(gram, projected)
        if not regional:
            return transformed(columns, x, gram, projected)
        variance = (near**2).sum(-1) / (near.shape[-1] - 1)
        mix = taper_between_levels.astype(y.dtype)
        # (..., levels, C, K) -> (..., C, levels K): the region of a column has its observations at all levels
        together = lambda values: jnp.moveaxis(values, -3, -2).reshape(*values.shape[:-3], len(columns), -1)
        around = map(together, (innovation[index], variance, seen, mix[:, :, None, None] * taper))
        factor = covariance_factor(*around, jnp.moveaxis(gram, 1, 0), config.adaptive_sd).T
        root = jnp.sqrt(factor)[..., None]
        weights = ensemble_transform(root[..., None] ** 2 * gram, root * projected)
        moved = jnp.einsum("ckm,ckmn->ckn", root * x[columns], weights)
        return jnp.concatenate([moved, root], -1)

    def analysis(key: Array, ensemble: Array, observation: Observation, axis: str | None) -> Array:
        members = ensemble.shape[0]
        observation = cleaned(observation)
        mean, x = deviations(ensemble)
        h = operator(ensemble).reshape(members, -1)
        used = (observation.precision.reshape(-1) > 0) & jnp.isfinite(h).all(0)
        h_mean, y = deviations(jnp.where(used, h, 0.0))  # a precision of zero alone would not keep NaN out
        precision = jnp.where(used, observation.precision.reshape(-1), 0.0).astype(ensemble.dtype)
        innovation = jnp.where(used, observation.values.reshape(-1) - h_mean, 0.0)
        prior_spread = spread(ensemble)
        if config.adaptive != "none" and not regional:
            gram, _ = normal_equations(y.T, innovation, precision)
            variance, taper = (y**2).sum(0) / (members - 1), jnp.ones_like(precision)
            root = jnp.sqrt(covariance_factor(innovation, variance, precision, taper, gram, config.adaptive_sd))
            x, y, prior_spread = root * x, root * y, root * prior_spread
        if global_weights:
            weights = ensemble_transform(*normal_equations(y.T, innovation, precision))
            moved = jnp.einsum("m...,mn->n...", x, weights)
        else:
            by_column = x.reshape(members, geometry.levels, n_columns).T
            if by_convolution:
                one = jnp.ones((), y.dtype)
                entries = convolved(geometry, config.cutoff, y.T, innovation, precision, one, axis)
                batch = batch_of(config.batch, geometry.levels, members**2)
                moved = over_columns(of_convolved, n_columns, axis, batch)(by_column, entries)
            else:
                batch = batch_of(config.batch, geometry.levels, members * reach_of(neighbours))
                moved = over_columns(at_columns, n_columns, axis, batch)(by_column, y.T, innovation, precision)
            if regional:
                moved, root = moved[..., :members], moved[..., members]
                prior_spread = root.T.reshape(prior_spread.shape) * prior_spread
            moved = moved.T.reshape(ensemble.shape)
        posterior = relaxed_to(prior_spread, mean + moved, config.rtps)
        if config.rotation:
            posterior = _rotated(key, posterior)
        if config.inflation != 1.0:
            posterior = rescaled(posterior, config.inflation)
        if config.additive > 0:
            # the rotation has drawn from the key itself
            key_states = jax.random.fold_in(key, 1)
            posterior = with_climate_differences(key_states, posterior, climate_states, config.additive)
        return posterior

    return with_all_members(analysis, mesh)


def _rotated(key: Array, ensemble: Array) -> Array:
    """Deviations times a random orthogonal matrix that keeps their zero mean (Sakov & Oke 2008, Sec. 2c).

    With B an orthogonal matrix whose first column is constant, B diag(1, O) B^T is such a matrix for any
    orthogonal O of order M - 1.
    """
    m = ensemble.shape[0]
    dtype = ensemble.dtype
    mean, deviation = deviations(ensemble)
    start = jnp.concatenate([jnp.ones((m, 1), dtype), jnp.eye(m, dtype=dtype)[:, 1:]], axis=1)
    basis = jnp.linalg.qr(start)[0]
    turn = jax.random.orthogonal(key, m - 1, dtype=dtype)
    rotation = basis[:, :1] @ basis[:, :1].T + basis[:, 1:] @ turn @ basis[:, 1:].T
    return mean + jnp.einsum("mn,n...->m...", rotation, deviation)
