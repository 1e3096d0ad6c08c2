"""What the observations around a column say of the members' weights: G = Y^T W Y and b = Y^T W d.

Y are the members' deviations at the observations, d the innovations, W the precisions times a taper rho of the distance
to the column. By gathers of the K observations in reach a column costs K M^2 and its memory K M. On the grid, with
rho a function of the difference of places, entry (m, n) of all columns' G is the convolution of rho with the field
w_j y_jm y_jn, and b's of rho with w_j d_j y_jm: M (M + 3)/2 pairs of Fourier transforms (the convolution theorem),
whose cost for each column grows as log N however far the taper reaches. In single precision the transforms are wrong by
some 1e-7 of the largest entry anywhere, which the eigenvalues of I + G, 1 or more, bear while G is under 1e5.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.filters.localization import NEGLIGIBLE, Geometry, Neighbours, taper_on_grid
from jaxda.observations import Operator
from jaxda.parallel.mesh import over_columns

#: observations in reach at each level from which convolutions are faster than gathers (docs/benchmarks.md)
MANY = 200
#: bytes that the gathers or matrices of one batch of columns may take
BUDGET = 2**27
#: columns at once on a CPU
IN_CACHE = 64
#: times the median of w |y|^2 (or 1, if that is more) that an observation may have where convolutions are taken
MOST = 1e4
#: pairs of members whose convolutions are done at once
PAIRS = 10


def normal_equations(y: Array, innovation: Array, weight: Array) -> tuple[Array, Array]:
    """Y^T W Y `(..., M, M)` and Y^T W d `(..., M)` from y `(..., K, M)`, d and w `(..., K)`."""
    root = jnp.sqrt(weight)
    y = y * root[..., None]
    return jnp.einsum("...km,...kn->...mn", y, y), jnp.einsum("...km,...k->...m", y, root * innovation)


def convolves(geometry: Geometry, operator: Operator, cutoff: float) -> bool:
    """Whether the observations are on the grid, and so many in reach that convolutions are the faster way."""
    if operator.positions is not None or math.isinf(cutoff):
        return False
    return np.count_nonzero(taper_on_grid(geometry, cutoff) > NEGLIGIBLE) >= MANY


def batch_of(asked: int | None, levels: int, entries: int) -> int:
    """Columns to be done at once on a device, as many as are asked for where `entries` numbers a level fit BUDGET.

    Where none are asked for, on a CPU few enough that their matrices stay in a core's cache: the LETKF takes 48 ms
    where batches of 256 columns take 63 (docs/benchmarks.md); elsewhere all that fit.
    """
    fit = max(1, BUDGET // (4 * levels * entries))
    if asked is None and jax.default_backend() == "cpu":
        asked = IN_CACHE
    return fit if asked is None else min(asked, fit)


def reach_of(neighbours: Neighbours) -> int:
    """Observations of a level that a column gathers."""
    return jax.eval_shape(neighbours, jnp.zeros(1, int))[0].shape[-1]


def convolved(
    geometry: Geometry, cutoff: float, y: Array, innovation: Array, precision: Array, power: Array, axis: str | None
) -> Array:
    """Entries of G, those on and above the diagonal row by row, and of b, `(M (M + 3)/2, levels, columns)`.

    Args:
        y: `(P, M)`, innovation, precision: `(P,)`, for each point of the grid, level by level; precision 0 where
            nothing was observed.
        power: of the taper, `()`.
        axis: of the mesh whose devices share the pairs, as for `over_columns`.

    An observation of over MOST times the usual information counts as one of MOST times: in single precision its
    rounding would else spoil G everywhere (NaN from 10^8 times on).
    """
    m, grid = y.shape[-1], geometry.columns
    # one datum far more precise than all others would leave them nothing but its rounding, wherever they are
    told = precision * (y**2).sum(-1)
    usual = jnp.nan_to_num(jnp.nanmedian(jnp.where(precision > 0, told, jnp.nan)))
    precision = precision * jnp.minimum(1.0, MOST * jnp.maximum(usual, 1.0) / jnp.where(told > 0, told, 1.0))
    axes = tuple(range(-len(grid), 0))
    taper = jnp.asarray(taper_on_grid(geometry, cutoff), y.dtype) ** power
    symbol = jnp.fft.rfftn(taper, axes=axes).real  # the taper is even
    on_grid = lambda values: values.reshape(*values.shape[:-1], geometry.levels, *grid)
    members = on_grid(y.T)
    others = jnp.concatenate([members, on_grid(innovation)[None]])
    weighted = members * on_grid(precision)
    pairs = np.array([(i, j) for i in range(m) for j in range(i, m)] + [(i, m) for i in range(m)])

    def some(numbers, weighted, others):
        first, second = jnp.asarray(pairs)[numbers].T
        spectrum = jnp.fft.rfftn(weighted[first] * others[second], axes=axes)
        return jnp.fft.irfftn(symbol * spectrum, s=grid, axes=axes)

    found = over_columns(some, len(pairs), axis, PAIRS)(weighted, others)
    return found.reshape(len(pairs), geometry.levels, -1)


def picked(entries: Array, columns: Array) -> tuple[Array, Array]:
    """G `(levels, C, M, M)` and b `(levels, C, M)` of some columns `(C,)` from what `convolved` returned."""
    m = round((math.sqrt(9 + 8 * len(entries)) - 3) / 2)
    number = np.zeros((m, m), int)
    number[np.triu_indices(m)] = np.arange(m * (m + 1) // 2)
    number = np.maximum(number, number.T)
    own = jnp.moveaxis(entries[:, :, columns], 0, -1)
    return own[..., number], own[..., m * (m + 1) // 2 :]
