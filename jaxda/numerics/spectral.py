"""Fourier transforms of real fields on a doubly periodic square, with 3/2-rule dealiasing.

A field is `(..., n, n)`, rows along y and columns along x; its spectrum is `numpy.fft.rfft2` of it,
`(..., n, n//2 + 1)`, rows in the order 0, 1, ..., n/2-1, -n/2, ..., -1.

The transforms are done one direction at a time: the columns that padding fills with zeros are never
transformed, and a field and its y derivative share their x stage. That is a third less work than
`irfft2` of padded arrays (docs/benchmarks.md).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array


def wavenumbers(n: int, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Angular wavenumbers `(k, l)` of an `rfft2` spectrum, `(n//2 + 1,)` and `(n,)`, in 1/m for a length in m.

    Examples:
        >>> k, l = wavenumbers(8, 2.0 * np.pi)
        >>> k.tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    unit = 2.0 * np.pi / length
    return unit * np.arange(n // 2 + 1), unit * n * np.fft.fftfreq(n)


def _pad_rows(spectrum: Array, n_fine: int) -> Array:
    n = spectrum.shape[-2]
    if n_fine == n:
        return spectrum
    zeros = jnp.zeros((*spectrum.shape[:-2], n_fine - n, spectrum.shape[-1]), spectrum.dtype)
    return jnp.concatenate([spectrum[..., : n // 2, :], zeros, spectrum[..., n // 2 :, :]], axis=-2)


def gradient(spectrum: Array, k: Array, l: Array, n_fine: int) -> tuple[Array, Array]:
    """x and y derivatives of fields given by their spectra, on a grid of `n_fine >= n` points.

    Args:
        spectrum: `(..., n, n//2 + 1)`.
        k, l: angular wavenumbers of `wavenumbers`, arrays.
        n_fine: points of the grid returned; 3n/2 dealiases products of two fields.

    Returns:
        Two arrays `(..., n_fine, n_fine)` in the units of the field times those of k.
    """
    n = spectrum.shape[-2]
    kept = n // 2 if n_fine > n else n // 2 + 1  # the +n/2 column has no place of its own on a finer grid
    columns = spectrum[..., :kept]
    along_y = jnp.fft.ifft(_pad_rows(jnp.stack([columns, 1j * l[:, None] * columns]), n_fine), axis=-2)
    along_x = jnp.stack([1j * k[:kept] * along_y[0], along_y[1]])
    derivatives = jnp.fft.irfft(along_x, n=n_fine, axis=-1) * (n_fine / n) ** 2
    return derivatives[0], derivatives[1]


def truncated_spectrum(field: Array, n: int) -> Array:
    """Spectrum `(..., n, n//2 + 1)` of fields `(..., n_fine, n_fine)`, cut at wavenumber n/2.

    The values are those of `rfft2` on the coarse grid. Where `n_fine > n` the +n/2 column is zero.
    """
    n_fine = field.shape[-1]
    if n_fine == n:
        return jnp.fft.rfft2(field)
    half = n // 2
    along_x = jnp.fft.rfft(field, axis=-1)[..., :half]
    spectrum = jnp.fft.fft(along_x, axis=-2)
    rows = jnp.concatenate([spectrum[..., :half, :], spectrum[..., -half:, :]], axis=-2)
    padding = [(0, 0)] * (rows.ndim - 1) + [(0, 1)]
    return jnp.pad(rows, padding) * (n / n_fine) ** 2


def resample(field: Array, n: int) -> Array:
    """Spectral interpolation or truncation of fields `(..., m, m)` to `(..., n, n)`.

    Wavenumbers at and above half of the smaller grid are left out, so the result is real and has no
    directional bias.

    Examples:
        >>> wave = jnp.sin(2.0 * np.pi * jnp.arange(8) / 8) * jnp.ones((8, 1))
        >>> fine = resample(wave, 16)
        >>> fine.shape, bool(jnp.allclose(fine[::2, ::2], wave, atol=1e-6))
        ((16, 16), True)
    """
    m = field.shape[-1]
    half = min(m, n) // 2
    spectrum = jnp.fft.rfft2(field)[..., :half]
    zeros = jnp.zeros((*field.shape[:-2], n - 2 * half + 1, half), spectrum.dtype)
    rows = jnp.concatenate([spectrum[..., :half, :], zeros, spectrum[..., m - half + 1 :, :]], axis=-2)
    padding = [(0, 0)] * (rows.ndim - 1) + [(0, n // 2 + 1 - half)]
    return jnp.fft.irfft2(jnp.pad(rows, padding), s=(n, n)) * (n / m) ** 2


def isotropic_spectrum(density: Array, n: int) -> Array:
    """Sum a two-dimensional spectral density over rings of integer wavenumber.

    Args:
        density: `(..., n, n//2 + 1)`, for instance |rfft2(field)|^2 / n^4: then the rings sum to the
            field's mean square (Parseval).
        n: points of the grid.

    Returns:
        `(..., n//2 + 1)`: ring 0 is the mean; corners beyond n/2 are counted in the last ring.

    Examples:
        >>> wave = jnp.sin(2.0 * np.pi * 3 * jnp.arange(8) / 8) * jnp.ones((8, 1))
        >>> density = jnp.abs(jnp.fft.rfft2(wave)) ** 2 / 8**4
        >>> [round(ring, 3) for ring in isotropic_spectrum(density, 8).tolist()]  # mean square 1/2, at wavenumber 3
        [0.0, 0.0, 0.0, 0.5, 0.0]
    """
    kx, ky = wavenumbers(n, 2.0 * np.pi)
    ring = np.minimum(np.rint(np.hypot(kx[None, :], ky[:, None])), n // 2).astype(int)
    twice = np.full(n // 2 + 1, 2.0)
    twice[0] = twice[-1] = 1.0  # columns 0 and n/2 hold their own conjugates
    weighted = (density * jnp.asarray(twice, density.dtype)).reshape(*density.shape[:-2], -1)
    return jnp.zeros((*density.shape[:-2], n // 2 + 1), density.dtype).at[..., ring.ravel()].add(weighted)
