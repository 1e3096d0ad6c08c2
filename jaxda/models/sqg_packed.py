"""The dealiased SQG step with both boundaries in one complex field: half the transforms, no real ones.

The field q = q_0 + i q_1 of the two boundaries' PV has the spectrum Q = q^_0 + i q^_1, and q_0 - i q_1 has Q*, the
conjugate of Q at the opposite wavenumber. With a = to_other, b = to_self of `sqg.SQGParams`, which are real and even,

    P = psi^_0 + i psi^_1 = -b Q* - i a Q,    P* = -b Q + i a Q*                                 (inversion)

and with the product taken in real and imaginary parts apart, J = psi_x q_y - psi_y q_x is J_0 + i J_1. So a tendency
is four complex transforms to the finer grid and one back, where `spectral.gradient` takes eight real ones and two.
XLA's transforms of real fields on a CPU take more than half the time of complex ones (docs/benchmarks.md).

A packed spectrum is `(..., N + 1, N)`: rows 0, 1, ..., N/2, -N/2, ..., -1 and columns 0, 1, ..., N/2, -N/2+1, ..., -1.
It has both rows +-N/2, because what `sqg.advection` keeps of them is not the same for q and its conjugate: wavenumber
(k, -N/2) with k > 0 and its mirror (-k, N/2), not (k, N/2). Column N/2 is not advected, as there. With these two,
which are in `weight`, the step is that of `sqg.step`, number by number (the tests show it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.shown import in_brief


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["k", "l", "to_self", "to_other", "damping", "wavenumber_squared", "weight"],
    meta_fields=["n_fine"],
)
@dataclass(frozen=True)
class PackedParams:
    """What the packed step needs, arrays `(N + 1, N)`.

    k and l, in 1/m, are zero in the column that is not advected, as is `weight` of the Jacobian, which is a half where
    one wavenumber of a boundary has two places. n_fine is the number of points of the finer grid.
    """

    k: Array
    l: Array
    to_self: Array
    to_other: Array
    damping: Array
    wavenumber_squared: Array
    weight: Array
    n_fine: int

    __repr__ = in_brief


def _places(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integer wavenumbers of rows `(n + 1, 1)` and columns `(1, n)`, and the part of a spectrum that a place has."""
    half = n // 2
    row = np.concatenate([np.arange(half + 1), np.arange(-half, 0)])[:, None]
    column = np.concatenate([np.arange(half + 1), np.arange(1 - half, 0)])[None, :]
    twice = (np.abs(row) == half) & ((column == 0) | (column == half))
    absent = ((row == half) & (column > 0) & (column < half)) | ((row == -half) & (column < 0))
    return row, column, np.where(absent, 0.0, np.where(twice, 0.5, 1.0))


def make_params(
    k: np.ndarray, l: np.ndarray, to_self: np.ndarray, to_other: np.ndarray, damping: np.ndarray, n_fine: int, dtype
) -> PackedParams:
    """The packed form of wavenumbers `(N/2+1,)`, `(N,)` and of symbols `(N, N/2+1)` that are even in both."""
    n = len(l)
    row, column, weight = _places(n)
    advected = (column != n // 2) & np.ones_like(row, bool)
    even = lambda symbol: symbol[row % n, np.abs(column)]
    along_x, along_y = k[1] * column, k[1] * row
    real = lambda a: jnp.asarray(np.asarray(a, float), dtype)
    return PackedParams(
        k=real(along_x * advected),
        l=real(along_y * advected),
        to_self=real(even(to_self)),
        to_other=real(even(to_other)),
        damping=real(even(damping)),
        wavenumber_squared=real(along_x**2 + along_y**2),
        weight=real(weight * advected),
        n_fine=n_fine,
    )


def packed(pv: Array) -> Array:
    """Packed spectrum `(..., N + 1, N)` of fields at two boundaries `(..., 2, N, N)`."""
    n = pv.shape[-1]
    spectrum = jnp.fft.fft2(jax.lax.complex(pv[..., 0, :, :], pv[..., 1, :, :]))
    # row N/2 of a transform stands for both
    both = jnp.concatenate([spectrum[..., : n // 2 + 1, :], spectrum[..., n // 2 :, :]], axis=-2)
    return both * _places(n)[2].astype(pv.dtype)


def unpacked(spectrum: Array) -> Array:
    """Fields at two boundaries `(..., 2, N, N)` of a packed spectrum."""
    half = spectrum.shape[-1] // 2
    one = spectrum[..., half : half + 1, :] + spectrum[..., half + 1 : half + 2, :]
    rows = [spectrum[..., :half, :], one, spectrum[..., half + 2 :, :]]
    field = jnp.fft.ifft2(jnp.concatenate(rows, axis=-2))
    return jnp.stack([field.real, field.imag], axis=-3)


def conjugated(spectrum: Array) -> Array:
    """Packed spectrum of q_0 - i q_1 from that of q_0 + i q_1: the conjugate at the opposite wavenumber."""
    half = spectrum.shape[-1] // 2
    rows = jnp.concatenate([spectrum[..., :1, :], spectrum[..., :0:-1, :]], axis=-2)
    own, middle = rows[..., :1], rows[..., half : half + 1]
    return jnp.conj(jnp.concatenate([own, rows[..., :half:-1], middle, rows[..., half - 1 : 0 : -1]], axis=-1))


def _on_fine_grid(spectra: Array, n_fine: int) -> Array:
    """Fields `(..., n_fine, n_fine)` of packed spectra."""
    n = spectra.shape[-1]
    half, padded = n // 2, jnp.zeros((*spectra.shape[:-2], n_fine, n_fine), spectra.dtype)
    # four corners into one array of zeros: a third faster on a CPU than by concatenation
    for row, rows in ((0, slice(0, half + 1)), (n_fine - half, slice(half + 1, n + 1))):
        for column, columns in ((0, slice(0, half + 1)), (n_fine - half + 1, slice(half + 1, n))):
            start = (0,) * (spectra.ndim - 2) + (row, column)
            padded = jax.lax.dynamic_update_slice(padded, spectra[..., rows, columns], start)
    return jnp.fft.ifft2(padded)


def _from_fine_grid(field: Array, n: int) -> Array:
    """Packed spectrum `(..., n + 1, n)` of fields, cut at wavenumber n/2."""
    half, n_fine = n // 2, field.shape[-1]
    spectrum = jnp.fft.fft2(field)
    columns = jnp.concatenate([spectrum[..., : half + 1], spectrum[..., n_fine - half + 1 :]], axis=-1)
    rows = jnp.concatenate([columns[..., : half + 1, :], columns[..., n_fine - half :, :]], axis=-2)
    return rows


def make_tendency(
    params: PackedParams, relaxed: Array, rate: Array, ekman: Array | None, factor: Array
) -> Callable[[Array], Array]:
    """dQ/dt of packed spectra Q without hyperdiffusion; `sqg.tendency` of both boundaries.

    Args:
        relaxed: packed spectrum of q_eq / tdiab, m/s^2.
        rate, factor: 1 / tdiab and the Jacobian's, `()`.
        ekman: of the two boundaries, m/s, `(2, 1, 1)`; None: no damping.
    """
    n = params.weight.shape[-1]
    scale = (params.n_fine / n) ** 2  # a field's values on the finer grid, and what undoes that for the product
    times = lambda a, z: jax.lax.complex(a * z.real, a * z.imag)
    times_i = lambda a, z: jax.lax.complex(-a * z.imag, a * z.real)
    k, l, weight = scale * params.k, scale * params.l, factor / scale * params.weight

    def tendency(q):
        other = conjugated(q)
        psi = times(-params.to_self, other) - times_i(params.to_other, q)
        along = [times_i(wavenumber, z) for z in (psi, q) for wavenumber in (k, l)]
        grid = _on_fine_grid(jnp.stack(along), params.n_fine)
        jacobian = lambda z: z[0] * z[3] - z[1] * z[2]
        advected = _from_fine_grid(jax.lax.complex(jacobian(grid.real), jacobian(grid.imag)), n)
        found = relaxed - times(rate, q) - times(weight, advected)
        if ekman is None:
            return found
        psi_other = times_i(params.to_other, other) - times(params.to_self, q)
        mean, difference = 0.5 * (ekman[0] + ekman[1]), 0.5 * (ekman[0] - ekman[1])  # of psi_0 and i psi_1 in P, P*
        return found + times(params.wavenumber_squared, mean * psi + difference * psi_other)

    return tendency
