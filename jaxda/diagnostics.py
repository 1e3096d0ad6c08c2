"""Measures of an ensemble against the truth: pure functions of arrays."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxda.numerics import spectral


def rmse(estimate: Array, truth: Array) -> Array:
    """Root of the mean squared difference over all points, in the unit of the states.

    Examples:
        >>> round(float(rmse(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))), 3)
        1.414
    """
    return jnp.sqrt(jnp.mean((estimate - truth) ** 2))


def mean_spread(ensemble: Array) -> Array:
    """Root of the ensemble variance averaged over all points, M - 1 degrees of freedom.

    For a reliable ensemble its square is M/(M + 1) of the squared `rmse` of the mean, in expectation
    (Fortin et al. 2014, J. Hydrometeor. 15, eq. 15).

    Examples:
        >>> float(mean_spread(jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])))
        2.0
    """
    return jnp.sqrt(jnp.mean(jnp.var(ensemble, axis=0, ddof=1)))


def crps(ensemble: Array, truth: Array) -> Array:
    """Fair continuous ranked probability score, averaged over all points, in the unit of the states.

    For members x_i and the truth t of one point,

        mean_i |x_i - t| - sum_ij |x_i - x_j| / (2 M (M - 1))

    whose expectation does not depend on M (Ferro 2014, Q. J. R. Meteorol. Soc. 140, 1917-1923):
    ensembles of different sizes can be compared, and a single score may be negative. Between the sorted members
    k and k + 1 pass k (M - k) of the pairs, so that memory is that of the ensemble. Fair is for members drawn by
    themselves: where they are placed around a given mean exactly, the score is too small by a part of order 1/M (a
    quarter for two members whose spread is their mean's error).

    Args:
        ensemble: `(M, *shape)`, M >= 2.
        truth: `(*shape)`.

    Examples:
        >>> ensemble = jnp.array([[0.0], [1.0], [2.0]])
        >>> [round(float(crps(ensemble, jnp.array([truth]))), 3) for truth in (1.0, 5.0)]
        [0.0, 3.333]
    """
    members = len(ensemble)
    below = jnp.arange(1, members, dtype=ensemble.dtype)
    pairs = jnp.tensordot(below * (members - below), jnp.diff(jnp.sort(ensemble, axis=0), axis=0), 1)
    return jnp.mean(jnp.abs(ensemble - truth).mean(0) - pairs / (members * (members - 1)))


def anomaly_correlation(forecast: Array, truth: Array) -> Array:
    """Correlation of two anomalies over all points, not centred: 1 for equal ones, 0 for a forecast that knows nothing.

    Wilks 2019, "Statistical Methods in the Atmospheric Sciences", Sec. 9.8 (the uncentred form).

    Examples:
        >>> float(anomaly_correlation(jnp.array([1.0, -2.0]), jnp.array([2.0, -4.0])))
        1.0
    """
    return jnp.sum(forecast * truth) / jnp.sqrt(jnp.sum(forecast**2) * jnp.sum(truth**2))


def variance_spectrum(field: Array) -> Array:
    """Mean square of fields `(..., N, N)` by integer wavenumber, `(..., N//2 + 1)`, in the squared unit of the field.

    It sums to the mean square exactly (Parseval). Wavenumber 0 is the squared mean; the last holds the corners too.

    Examples:
        >>> wave = jnp.sin(jnp.pi / 4 * jnp.arange(8)) * jnp.ones((8, 1))  # one wave along x
        >>> [round(ring, 3) for ring in variance_spectrum(wave).tolist()]
        [0.0, 0.5, 0.0, 0.0, 0.0]
    """
    n = field.shape[-1]
    return spectral.isotropic_spectrum(jnp.abs(jnp.fft.rfft2(field)) ** 2 / n**4, n)
