"""Where a column of the state looks for observations, and how much it believes them.

Distances are along the periodic horizontal axes, in the unit of the geometry's spacing: km for SQG, grid
points for Lorenz-96.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.observations import Operator

#: observations with less weight than this are left out
NEGLIGIBLE = 1e-10


@dataclass(frozen=True)
class Geometry:
    """Shape of a state, its grid spacing, and the model's own lengths.

    Attributes:
        boundary_distance: at which the two boundaries stand apart, None without boundaries.
        cutoff: zero radius of the taper that suits the model, None where nobody knows.

    Examples:
        >>> from jaxda.models import sqg
        >>> Geometry.of(sqg.SQGConfig(N=16))
        Geometry(shape=(2, 16, 16), spacing=1250.0, boundary_distance=1000.0, cutoff=2250.0)
    """

    shape: tuple[int, ...]
    spacing: float
    boundary_distance: float | None = None
    cutoff: float | None = None

    @classmethod
    def of(cls, model) -> Geometry:
        """The geometry of a model's states, from its settings."""
        return cls(model.shape, model.spacing, model.rossby_radius, model.cutoff)

    @property
    def columns(self) -> tuple[int, ...]:
        """Sizes of the horizontal axes."""
        return self.shape[-2:] if len(self.shape) == 3 else self.shape

    @property
    def levels(self) -> int:
        """Number of boundaries, 1 where the state has only horizontal axes."""
        return self.shape[0] if len(self.shape) == 3 else 1


def gaspari_cohn(r: np.ndarray) -> np.ndarray:
    """Taper of Gaspari & Cohn (1999, eq. 4.10) with zero radius 1: one at r = 0, zero from r = 1 on.

    Examples:
        >>> [round(float(taper), 3) for taper in gaspari_cohn([0.0, 0.25, 0.5, 1.0])]
        [1.0, 0.685, 0.208, 0.0]
    """
    z = 2.0 * np.abs(np.asarray(r, float))
    near = 1.0 + z**2 * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
    safe = np.maximum(z, 1e-30)
    far = 4.0 - 5.0 * z + z**2 * (5 / 3 + z * (5 / 8 + z * (-1 / 2 + z / 12))) - 2.0 / (3.0 * safe)
    return np.where(z <= 1.0, near, np.where(z < 2.0, np.maximum(far, 0.0), 0.0))


def periodic_distance(difference: np.ndarray, sizes) -> np.ndarray:
    """Length of differences `(..., axes)` on a periodic domain of the given sizes, in their unit."""
    sizes = np.asarray(sizes, float)
    wrapped = np.abs(difference) % sizes
    return np.sqrt((np.minimum(wrapped, sizes - wrapped) ** 2).sum(-1))


def vertical_taper(geometry: Geometry, cutoff: float, other: float | None = None) -> np.ndarray:
    """Weight `(levels, levels)` of observations at one boundary for the state at another.

    One on the same boundary; on the other `other`, or where that is None Gaspari-Cohn of the Rossby
    radius over the cut-off.
    """
    if geometry.levels == 1:
        return np.ones((1, 1))
    if other is None and geometry.boundary_distance is None:
        raise ValueError("vertical_taper is not set and the geometry has no boundary_distance; give one of them")
    if other is None:
        other = float(gaspari_cohn(np.array(geometry.boundary_distance / cutoff)))
    return np.where(np.eye(geometry.levels, dtype=bool), 1.0, other)


def taper_on_grid(geometry: Geometry, cutoff: float) -> np.ndarray:
    """The taper `(*columns)` of every difference of two columns, that between a column and itself first."""
    sizes = geometry.columns
    offsets = np.stack(np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij"), -1)
    return gaspari_cohn(geometry.spacing * periodic_distance(offsets, sizes) / cutoff)


Neighbours = Callable[[Array], tuple[Array, Array]]


def make_neighbours(geometry: Geometry, operator: Operator, cutoff: float) -> Neighbours:
    """A function: columns `(C,)` -> their observations' flat indices and tapers, both `(levels, C, K)`.

    K is fixed: the number of grid offsets inside the cut-off, or of the positions around the richest
    column; unused places have taper zero. Memory is K for the grid and columns x K for positions.
    """
    if operator.positions is None:
        return _grid_neighbours(geometry, cutoff)
    return _position_neighbours(geometry, operator.positions, cutoff)


def _grid_neighbours(geometry: Geometry, cutoff: float) -> Neighbours:
    sizes = geometry.columns
    taper = taper_on_grid(geometry, cutoff)
    offsets, taper = np.argwhere(taper > NEGLIGIBLE), taper[taper > NEGLIGIBLE]
    per_level = math.prod(sizes)

    def neighbours(columns):
        index = jnp.zeros((len(columns), len(taper)), columns.dtype)
        stride = per_level
        for axis, size in enumerate(sizes):
            stride //= size
            index = index + ((columns // stride % size)[:, None] + offsets[:, axis]) % size * stride
        levels = per_level * jnp.arange(geometry.levels)[:, None, None]
        return index + levels, jnp.broadcast_to(jnp.asarray(taper), (geometry.levels, *index.shape))

    return neighbours


def _position_neighbours(geometry: Geometry, positions: np.ndarray, cutoff: float) -> Neighbours:
    sizes = geometry.columns
    columns = np.stack(np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    level_of = np.rint(positions[:, 0]).astype(int) if geometry.levels > 1 else np.zeros(len(positions), int)
    horizontal = positions[:, -len(sizes) :]
    tables = []
    for column in columns:
        taper = gaspari_cohn(geometry.spacing * periodic_distance(horizontal - column, sizes) / cutoff)
        tables.append([np.flatnonzero((taper > NEGLIGIBLE) & (level_of == level)) for level in range(geometry.levels)])
    richest = max(1, max(len(found) for levels in tables for found in levels))
    index = np.zeros((geometry.levels, len(columns), richest), np.int32)
    taper = np.zeros(index.shape)
    for c, levels in enumerate(tables):
        for level, found in enumerate(levels):
            index[level, c, : len(found)] = found
            distance = periodic_distance(horizontal[found] - columns[c], sizes)
            taper[level, c, : len(found)] = gaspari_cohn(geometry.spacing * distance / cutoff)
    return lambda columns: (jnp.asarray(index)[:, columns], jnp.asarray(taper)[:, columns])
