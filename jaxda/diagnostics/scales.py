"""Errors and spread by wavenumber: which scales an analysis knows."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxda.models import sqg
from jaxda.models.sqg import SQGConfig
from jaxda.numerics import spectral

#: what `parts_of` returns the spectra of
PARTS = ("truth", "mean", "error", "spread")
#: logarithm of a ratio that stands for 0 or infinity
FAR = 50.0


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


def make_spectra(config: SQGConfig, dtype=None) -> Callable[[Array], Array]:
    """PV `(..., 2, N, N)` in m/s -> temperature variance [K^2] and kinetic energy [m^2/s^2], `(..., 2, N//2 + 1)`.

    Both are means over the boundaries, by integer wavenumber.

    Examples:
        >>> config = SQGConfig(N=16)
        >>> make_spectra(config)(jnp.ones(config.shape)).shape
        (2, 9)
    """
    params = sqg.make_params(config, dtype)

    def spectra(pv: Array) -> Array:
        temperature = variance_spectrum(config.kelvin * pv).mean(-2)
        return jnp.stack([temperature, sqg.kinetic_energy_spectrum(params, pv).mean(-2)], axis=-2)

    return spectra


def parts_of(spectra: Callable[[Array], Array], ensemble: Array, truth: Array) -> Array:
    """Spectra of each of `PARTS`, `(4, ...)`: of an ensemble `(M, *shape)` and the truth `(*shape)`.

    The spread's is M/(M - 1) of that of the first member's distance from the mean. Since members can be exchanged its
    expectation is that of all of them, and over cycles it comes to the same; it needs one transform in place of M, and
    none of members on other devices. A reliable ensemble's is M/(M + 1) of the error's.

    Examples:
        >>> one = jnp.ones((4, 4))
        >>> parts_of(variance_spectrum, jnp.stack([one, -one]), one)[:, 0].tolist()
        [1.0, 0.0, 1.0, 2.0]
    """
    members, mean = len(ensemble), ensemble.mean(0)
    apart = ensemble[0] - mean
    found = spectra(jnp.stack([truth, mean, mean - truth, apart]))
    factor = jnp.array([1.0, 1.0, 1.0, members / (members - 1.0)], found.dtype)
    return found * factor.reshape(-1, *[1] * (found.ndim - 1))


def effective_wavelength(error: Array, truth: Array, length: float, ratio: float = 0.5) -> Array:
    """Shortest wavelength that an analysis resolves, in the unit of `length`: where error/truth first exceeds a ratio.

    Half is the usual noise-to-signal ratio (Ballarotta et al. 2019, Ocean Sci. 15, 1091-1109); 1 is where the
    error's spectrum crosses the truth's. Between two wavenumbers the logarithms are interpolated. Two grid spacings
    where nothing exceeds it, inf where already the longest wave does.

    Args:
        error, truth: spectra `(N//2 + 1,)`, better means over many states; the first and last rings are left out.
        length: side of the square.
        ratio: of error to truth [1].

    Examples:
        >>> truth = 1.0 / jnp.maximum(jnp.arange(17.0), 1.0) ** 2
        >>> round(float(effective_wavelength(jnp.full(17, 0.02), truth, length=100.0)), 1)  # wavenumber 5
        20.0
    """
    noise = jnp.log(error[1:-1] / truth[1:-1]) - jnp.log(ratio)
    noise = jnp.clip(jnp.where(jnp.isnan(noise), jnp.inf, noise), -FAR, FAR)
    wave = jnp.log(jnp.arange(1, len(noise) + 1, dtype=noise.dtype))
    above = noise > 0
    at = jnp.argmax(above)
    low = jnp.maximum(at - 1, 0)
    rise = jnp.where(at > 0, noise[at] - noise[low], 1.0)
    crossing = jnp.exp(wave[low] - noise[low] / rise * (wave[at] - wave[low]))
    resolved = jnp.where(above[0], 0.0, jnp.where(above.any(), crossing, len(error) - 1.0))
    return length / resolved
