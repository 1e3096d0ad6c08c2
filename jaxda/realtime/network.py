"""Observations of a file on the sites of an experiment's network."""

from __future__ import annotations

import numpy as np

from jaxda.observations import Operator
from jaxda.output import observation_file

#: how far an observation may be from its site [grid points]
SITE_TOLERANCE = 1e-3


def on_network(
    operator: Operator, found: observation_file.Observations, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values and precisions `(*values_shape)` of observations at the sites of a network, and how many are at none.

    The sites are the grid points, or the positions of the operator. Precision is 0 where nothing is observed.

    Raises:
        ValueError: no observation at a site, two at one, or an error whose 1/sigma^2 the type cannot hold.
    """
    site, distance = nearest_sites(operator, found.positions)
    inside = distance <= SITE_TOLERANCE
    if not inside.any():
        where = ", ".join(f"{p:g}" for p in found.positions[0])
        wrong = f"obs[0] is at grid indices ({where}); correct z, y and x"
        raise ValueError(f"no observation is at a site of the network, {wrong}")
    numbers, counts = np.unique(site[inside], return_counts=True)
    if (counts > 1).any():
        twice = np.flatnonzero(inside & (site == numbers[np.argmax(counts > 1)]))[:2]
        raise ValueError(f"obs[{twice[0]}] and obs[{twice[1]}] are at one site of the network; give each site once")
    values = np.full(operator.values_shape, np.nan, dtype)
    precision = np.zeros(operator.values_shape, dtype)
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        values.flat[site[inside]] = found.values[inside]
        precision.flat[site[inside]] = 1.0 / found.errors[inside].astype(dtype) ** 2
    kept = precision.flat[site]
    wrong = inside & ~(np.isfinite(kept) & (kept >= np.finfo(dtype).tiny) & np.isfinite(values.flat[site]))
    if wrong.any():
        at = int(np.argmax(wrong))
        size = f"value[{at}] = {found.values[at]:g}, error[{at}] = {found.errors[at]:g}"
        raise ValueError(f"{size}: too large or small for {dtype}; correct them")
    return values, precision, int(np.sum(~inside))


def nearest_sites(operator: Operator, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat number of the site nearest to each position `(P, 3)`, and the distance along the farther axis [grid points].

    Horizontally the grid is periodic, and an observation on another boundary is at no site.
    """
    levels, n = operator.shape[0], operator.shape[-1]
    if operator.positions is None:
        near = np.rint(positions).astype(int)
        distance = np.abs(positions - near).max(1)
        return np.ravel_multi_index((near[:, 0], near[:, 1] % n, near[:, 2] % n), (levels, n, n)), distance
    site, distance = np.zeros(len(positions), int), np.zeros(len(positions))
    for i, position in enumerate(positions):
        apart = np.abs(operator.positions - position)
        apart[:, 1:] = np.minimum(apart[:, 1:], n - apart[:, 1:])
        farther = apart.max(1)
        site[i] = np.argmin(farther)
        distance[i] = farther[site[i]]
    return site, distance
