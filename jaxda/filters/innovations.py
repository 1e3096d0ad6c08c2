"""How wrong is the forecast? Three numbers a region, from this cycle's innovations alone.

The local score filter takes the forecast error for S = lambda X X^T + q I, with X X^T the ensemble's covariance
(tapered) and q the variance of a part that is uncorrelated in space and that no member knows. lambda, q and the power p
to which the taper is raised (more than 1: less far is believed) are those under which each observation is best
predicted from the others: leave-one-out cross-validation (Geisser & Eddy 1979, J. Am. Stat. Assoc. 74, 153-160;
Rasmussen & Williams 2006, eqs. 5.10-5.12).

At a column let A = I + lambda G with G = Y^T W Y, b = Y^T W d, and W = rho/(R + q) the tapered precisions of the
observations around it. The residual of the column's own observation j, with y_j its row of Y and v_j = R_j + q, is
r_j = d_j - lambda y_j A^-1 b, its leverage h_j = lambda y_j A^-1 y_j^T / v_j. Taking j away is a rank-1 change of A
(Sherman & Morrison 1950), so without refitting

    d_j - E[d_j | others] = r_j / (1 - h_j),      Var[d_j | others] = v_j / (1 - h_j),

    -2 log p(d_j | others) = r_j^2 / ((1 - h_j) v_j) + log(v_j / (1 - h_j)) + const.

Why not the evidence of all observations in reach at once: 20 members cannot span a whole neighbourhood, and the
evidence puts what they miss there into q, though the taper means that nobody asks them to reach so far. What is
asked of the analysis is the value at the column itself, and that is what is scored here.

The scores are summed over a sample of columns, for q on a grid of powers of two from 0 up to twice the mean squared
innovation, everywhere alike or proportional to the `roughness` of the mean, and for lambda and p on fixed grids, p once
q is known. The estimate is the mean under exp(-sum/2) times a prior: log lambda normal around 0, p anywhere, and q = 0
but for small odds: with few observations the ensemble is believed, with many the data decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

#: candidates for lambda, and the number of candidates for q above zero
INFLATIONS = np.geomspace(0.125, 8.0, 19)
HALVINGS = 10
#: least roughness before its power is taken, as a part of its mean
LEAST_ROUGH = 1e-3
#: candidates for the power of the tapers: 2.25 shortens a cut-off by a third
SHARPNESSES = (1.0, 1.5, 2.25)


class PriorError(NamedTuple):
    """lambda, q and the tapers' power of the module's docstring, `(*columns)`, `(*shape)`, `(*columns)`."""

    inflation: Array
    full_rank: Array
    sharpness: Array


class Sample(NamedTuple):
    """Columns to be scored `(C,)`, the flat index of each one's own observation at each level `(levels, C)`."""

    columns: Array
    own: Array


def leave_one_out(gram: Array, projected: Array, y: Array, innovation: Array, variance: Array) -> Array:
    """-2 log p(d_j | others) of own observations, `(len(INFLATIONS), ...)`; zero where not observed.

    Args:
        gram: G, `(..., M, M)`, for one q; projected: b, `(..., M)`.
        y: `(..., M)` row of the own observation; innovation, variance: its d and R + q, `(...)`, variance inf
            where there is none.
    """
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values, 0.0)  # rounding
    y = jnp.einsum("...mn,...m->...n", vectors, y)
    projected = jnp.einsum("...mn,...m->...n", vectors, projected)
    inflation = jnp.asarray(INFLATIONS, gram.dtype).reshape(-1, *[1] * gram.ndim)[..., 0]
    weight = inflation / (1.0 + inflation * values)
    seen = jnp.isfinite(variance)
    variance = jnp.where(seen, variance, 1.0)
    left = 1.0 - jnp.clip((weight * y**2).sum(-1) / variance, 0.0, 0.999)
    residual = innovation - (weight * y * projected).sum(-1)
    return jnp.where(seen, residual**2 / (left * variance) + jnp.log(variance / left), 0.0)


def roughness(mean: Array, axes: int) -> Array:
    """Where a white part would be if it were not everywhere alike: `(..., *columns)`, of mean 1.

    Squared second differences of the mean along its last `axes`, smoothed over a grid spacing, to the power 3/4. What a
    model cannot resolve is lost where the field bends: with a truth of twice the resolution the squared error of the
    forecast, in twenty classes of that square, rises sixfold as it rises tenfold (docs/score_table.md).
    """
    along = range(mean.ndim - axes, mean.ndim)
    square = sum(jnp.roll(mean, 1, axis) - 2.0 * mean + jnp.roll(mean, -1, axis) for axis in along) ** 2
    for axis in (*along, *along):
        square = 0.25 * (jnp.roll(square, 1, axis) + 2.0 * square + jnp.roll(square, -1, axis))
    usual = square.mean()
    rough = jnp.maximum(square / jnp.where(usual > 0, usual, 1.0), LEAST_ROUGH) ** 0.75
    return rough / rough.mean()


def candidates(innovation: Array, variance: Array, ensemble_variance: Array, places: int = 1) -> Array:
    """Candidates for q, `(1 + places HALVINGS, places)`: its size in each of `places` fields of mean 1.

    None, and for one field after the other twice the mean squared innovation halved again and again. The mean is
    weighted by 1/(R + ensemble variance): data that say little, such as those of an operator that saturates, do not
    stretch the grid.
    """
    seen = jnp.isfinite(variance)
    weight = jnp.where(seen, 1.0 / jnp.where(seen, variance + ensemble_variance, 1.0), 0.0)
    weight = weight / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)
    mean_square = jnp.sum(weight * jnp.where(seen, innovation, 0.0) ** 2)
    sizes = mean_square * 0.5 ** jnp.arange(HALVINGS - 2, -2, -1, dtype=innovation.dtype)
    in_one_field = jnp.kron(jnp.eye(places, dtype=sizes.dtype), sizes[:, None])
    return jnp.concatenate([jnp.zeros_like(in_one_field[:1]), in_one_field])


def full_rank(scores: Array, candidates: Array, inflation_spread: float, odds: float) -> Array:
    """Posterior mean of q in each field `(places, ...)`, from sums of `leave_one_out` of a region, over lambda too.

    Args:
        scores: `(len(candidates), len(INFLATIONS), ...)`, summed over a region's sample.
        candidates: for q `(Q, places)`, the first zero.
        inflation_spread: prior standard deviation of log lambda.
        odds: prior probability of q > 0, shared evenly by the other candidates.
    """
    above = len(candidates) - 1
    prior = np.array([math.log1p(-odds), *[math.log(odds / max(1, above))] * above])
    return jnp.einsum("ql...,qp->p...", _posterior(scores, prior, inflation_spread), candidates)


def reach(scores: Array, inflation_spread: float) -> tuple[Array, Array]:
    """Posterior means of lambda and of the tapers' power, of their logarithms, for a known q.

    Args:
        scores: `(len(SHARPNESSES), len(INFLATIONS), ...)`, summed over a region's sample.
        inflation_spread: prior standard deviation of log lambda.
    """
    weight = _posterior(scores, np.zeros(len(SHARPNESSES)), inflation_spread)
    mean = lambda values, axes: jnp.exp(jnp.einsum(axes, weight, jnp.log(jnp.asarray(values, weight.dtype))))
    return mean(INFLATIONS, "pl...,l->..."), mean(SHARPNESSES, "pl...,p->...")


def _posterior(scores: Array, log_prior: np.ndarray, inflation_spread: float) -> Array:
    """Probability of each candidate (rows, with a prior each) and lambda, of the shape of the scores."""
    log_inflation = np.log(INFLATIONS)
    prior = log_prior[:, None] - 0.5 * (log_inflation / inflation_spread) ** 2
    log_weight = -0.5 * scores + jnp.asarray(prior, scores.dtype).reshape(*prior.shape, *[1] * (scores.ndim - 2))
    return jax.nn.softmax(log_weight.reshape(-1, *scores.shape[2:]), axis=0).reshape(scores.shape)


def make_sample(columns: tuple[int, ...], levels: int, positions: np.ndarray | None, size: int):
    """A function: seen `(P,)` -> `Sample` of `size` columns with observations of their own (all, if there are fewer).

    On the grid the columns are spread over the domain in a fixed order, those with an observation first. Off the
    grid a fixed selection of positions stands for the columns nearest to them.
    """
    total = math.prod(columns)
    if positions is None:
        order = np.random.default_rng(0).permutation(total)
        rank = jnp.asarray(np.argsort(order))

        def on_grid(seen):
            observed = seen.reshape(levels, total).any(0)
            # int32 sorts: the columns without observations come after all others
            chosen = jax.lax.top_k(-(rank + total * ~observed), min(size, total))[1]
            return Sample(chosen, chosen + total * jnp.arange(levels)[:, None])

        return on_grid
    picked = np.random.default_rng(0).permutation(len(positions))[:size]
    nearest = np.rint(positions[picked][:, -len(columns) :]).astype(int) % np.array(columns)
    level = np.rint(positions[picked, 0]).astype(int) if levels > 1 else np.zeros(len(picked), int)
    own = np.where(level == np.arange(levels)[:, None], picked, -1)
    sample = Sample(jnp.asarray(np.ravel_multi_index(tuple(nearest.T), columns)), jnp.asarray(own))
    return lambda seen: sample


def region_weights(columns: tuple[int, ...], regions: int) -> tuple[np.ndarray, ...]:
    """Linear interpolation from region centres to grid points along each periodic axis, `(size, regions)` each."""
    matrices = []
    for size in columns:
        place = (np.arange(size) + 0.5) * regions / size - 0.5
        low = np.floor(place).astype(int)
        matrix = np.zeros((size, regions))
        np.add.at(matrix, (np.arange(size), low % regions), 1.0 - (place - low))
        np.add.at(matrix, (np.arange(size), (low + 1) % regions), place - low)
        matrices.append(matrix)
    return tuple(matrices)


class Regions(NamedTuple):
    """How the scores of a sample of columns are summed by region, and how regions make a field `(*columns)`."""

    total: Callable[[Array, Array], Array]
    field: Callable[[Array], Array]


def make_regions(columns: tuple[int, ...], count: int) -> Regions:
    """Regions: `count` equal parts of each axis; between their centres fields are interpolated linearly."""
    along_axes = [jnp.asarray(matrix) for matrix in region_weights(columns, count)]
    places = np.stack(np.unravel_index(np.arange(math.prod(columns)), columns), -1)
    region = np.ravel_multi_index(tuple((places * count // np.array(columns)).T), (count,) * len(columns))

    def total(scores, sample):
        by_region = jax.ops.segment_sum(jnp.moveaxis(scores, -1, 0), jnp.asarray(region)[sample], count ** len(columns))
        return jnp.moveaxis(by_region, 0, -1)

    def field(values):
        values = values.reshape((count,) * len(columns))
        for axis, matrix in enumerate(along_axes):
            values = jnp.moveaxis(jnp.tensordot(matrix.astype(values.dtype), values, (1, axis)), 0, axis)
        return values

    return Regions(total, field)
