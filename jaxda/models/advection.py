"""What turbulence does to a field, as a surrogate can use it: velocities that it induces, and moving it along them.

Both know nothing of a model's parameters. `x` is always `(..., N, N)` on a doubly periodic square, rows along y.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array


def induced_velocities(x: Array) -> tuple[Array, Array]:
    """Velocities along x and y that each field induces on its own, were the other boundary infinitely far.

    Surface quasi-geostrophy over infinite depth has the streamfunction psi^ = q^ / |k| (Held et al. 1995, JFM 282,
    eq. 7), so

        u^ = -i l/|k| q^,    v^ = i k/|k| q^:

    the Riesz transforms of the field, in its own unit and without any constant. Between two boundaries this is the
    velocity of waves much shorter than the Rossby radius (`models/sqg.py`: tanh mu -> 1, 1/sinh mu -> 0), but for the
    sign of the lower boundary; what the other boundary adds is for the network to learn. The mean induces nothing.
    """
    n = x.shape[-1]
    k, l = np.meshgrid(np.arange(n // 2 + 1), n * np.fft.fftfreq(n))
    unit = np.hypot(k, l)
    unit[0, 0] = 1.0
    # a real field has no derivative at wavenumber n/2 of an axis, which only even n have
    turn = lambda wavenumber: np.where(2 * np.abs(wavenumber) == n, 0.0, wavenumber) / unit
    spectrum = jnp.fft.rfft2(x)
    back = lambda factor: jnp.fft.irfft2(spectrum * jnp.asarray(factor, spectrum.dtype), s=(n, n))
    return back(-1j * turn(l)), back(1j * turn(k))


def moved(x: Array, along_x: Array, along_y: Array) -> Array:
    """Fields moved by displacements of the shape of x, in grid points: x at the places minus the displacements.

    Cubic splines (Unser 1999, IEEE Signal Processing Magazine 16(6), 22-38): coefficients c with x = b * c at the grid
    points, b = (1, 4, 1)/6 along each axis, found by dividing spectra by (4 + 2 cos k)/6, are weighted by the B-splines
    of the four points around each place. Whole displacements are exact. Half a grid point damps waves of four points
    by 3 %, where cubic Lagrange interpolation over the same four damps them by 12 %.
    """
    n = x.shape[-1]
    places = jnp.arange(n, dtype=x.dtype)
    rows, row_weights = _spline(places[:, None] - along_y)
    columns, column_weights = _spline(places - along_x)
    flat = _coefficients(x).reshape(*x.shape[:-2], n * n)
    out = jnp.zeros_like(x)
    for row, row_weight in zip(rows, row_weights):
        at_row = jnp.zeros_like(x)
        for column, column_weight in zip(columns, column_weights):
            index = (row % n * n + column % n).reshape(flat.shape)
            at_row = at_row + column_weight * jnp.take_along_axis(flat, index, -1).reshape(x.shape)
        out = out + row_weight * at_row
    return out


def _coefficients(x: Array) -> Array:
    """Of the cubic spline through fields on the periodic square."""
    n = x.shape[-1]
    symbol = lambda k: (4.0 + 2.0 * np.cos(2.0 * np.pi * k / n)) / 6.0
    both = symbol(np.arange(n))[:, None] * symbol(np.arange(n // 2 + 1))
    return jnp.fft.irfft2(jnp.fft.rfft2(x) / jnp.asarray(both, x.dtype), s=(n, n))


def _spline(places: Array) -> tuple[list[Array], list[Array]]:
    """The four grid points around places, and the cubic B-spline of each."""
    below = jnp.floor(places)
    f = places - below
    near = lambda t: 2.0 / 3.0 - t**2 * (1.0 - 0.5 * t)
    far = lambda t: (1.0 - t) ** 3 / 6.0
    first = below.astype(jnp.int32)
    return [first + offset for offset in (-1, 0, 1, 2)], [far(f), near(f), near(1.0 - f), far(1.0 - f)]
