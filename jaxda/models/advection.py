"""What turbulence does to a field, as a surrogate can use it: velocities that it induces, and moving it along them.

None of it knows a model's parameters. `x` is always `(..., V, N, N)` on a doubly periodic square, rows along y.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.numerics import spectral

#: unit of velocities that are learned, in sides of the square per unit of time: a hundred of an optimizer's steps of a
#: thousandth are then the speed of the eddies (with 1 in its place, 250 steps do not find them)
SPEED = 10.0


def induced_velocities(x: Array, inversion: Array | None = None) -> tuple[Array, Array]:
    """Velocities along x and y that fields induce.

    Surface quasi-geostrophy over infinite depth has the streamfunction psi^ = q^ / |k| (Held et al. 1995, JFM 282,
    eq. 7), so

        u^ = -i l/|k| q^,    v^ = i k/|k| q^:

    the Riesz transforms of the field, in its own unit and without any constant. Between two boundaries this is the
    velocity of waves much shorter than the Rossby radius (`models/sqg.py`: tanh mu -> 1, 1/sinh mu -> 0), but for the
    sign of the lower boundary. In general each boundary's streamfunction is a sum over the boundaries of q^ times a
    function of |k| alone, since the fluid between them knows no direction: `inversion`, by which the transforms are
    multiplied. The mean induces nothing. What a field does to itself is known from how it moves up to a multiple of
    |k| only: psi = c q is constant along the flow that it makes, J(q, q) = 0.

    Args:
        inversion: `(V, V, wavenumbers(N))`, of each variable (first axis) by each (second), at |k| = 0, 1, 2, ...; |k|
            times it is linear between, since mu coth mu is nearly so where coth mu is far from it. None: one of a
            variable by itself, zero by others.
    """
    n = x.shape[-1]
    k, l, size = _waves(n)
    unit = np.where(size == 0.0, 1.0, size)
    # a real field has no derivative at wavenumber n/2 of an axis, which only even n have
    turn = lambda wavenumber: np.where(2 * np.abs(wavenumber) == n, 0.0, wavenumber) / unit
    spectrum = jnp.fft.rfft2(x)
    if inversion is not None:
        below = size.astype(int)
        part = jnp.asarray(size - below, x.dtype)
        times_size = (1.0 - part) * below * inversion[..., below] + part * (below + 1) * inversion[..., below + 1]
        response = times_size / jnp.asarray(unit, x.dtype)
        spectrum = jnp.einsum("vwlk,...wlk->...vlk", response.astype(spectrum.dtype), spectrum)
    back = lambda factor: jnp.fft.irfft2(spectrum * jnp.asarray(factor, spectrum.dtype), s=(n, n))
    return back(-1j * turn(l)), back(1j * turn(k))


def _waves(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wavenumbers k and l of the places of `rfft2`, and |k|."""
    k, l = np.meshgrid(np.arange(n // 2 + 1), n * np.fft.fftfreq(n))
    return k, l, np.hypot(k, l)


def wavenumbers(n: int) -> int:
    """How many whole |k| a grid of n x n needs to have one on each side of all of its own."""
    return int(_waves(n)[2].max()) + 2


def first_guess(x: Array, inversion: Array, time: Array, steps: int) -> Array:
    """The state a while later if it were only carried along, by the velocities that it induces: semi-Lagrangian steps.

    Each step of length tau follows trajectories to where they come from, twice (Staniforth & Cote 1991, MWR 119, Sec.
    2): with the velocity u0 at the start, halfway back; then with the mean of it and of u1, that of the field so
    found:

        d = tau u0(x - tau u0(x)/2),    q1 = q(x - d),    m = (u0 + u1)/2,    q <- q(x - tau m(x - tau m(x)/2)).

    The last of these is done on a grid 3/2 as fine and cut back to the waves of the grid (Orszag's rule): folding
    makes waves that the grid does not have, which on it would become others, and in the model are left out. That was
    nearly half of the error of a guess without. Velocities and q1 are interpolated linearly, which takes less than half
    of the time and costs little; q by splines (docs/surrogate.md).

    Args:
        x: `(B, V, N, N)`.
        inversion: of `induced_velocities`; their unit is `SPEED` sides of the square per unit of time.
        time: `(B,)`.
    """
    n = x.shape[-1]
    fine = n + n // 4 * 2
    sides = SPEED * (time / steps).astype(x.dtype)[:, None, None, None]  # moved by a velocity of one, in a step

    def back(velocities):
        along_x, along_y = (sides * u.shape[-1] * u for u in velocities)
        return [moved_linearly(d, along_x / 2, along_y / 2) for d in (along_x, along_y)]

    def step(x, _):
        start = induced_velocities(x, inversion)
        end = induced_velocities(moved_linearly(x, *back(start)), inversion)
        mean = (0.5 * (a + b) for a, b in zip(start, end))
        state, *velocities = spectral.resample(jnp.stack([x, *mean]), fine)
        return spectral.resample(moved(state, *back(velocities)), n), None

    # a loop: the derivative of several steps one after another takes minutes to compile
    return jax.lax.scan(step, x, length=steps)[0]


def moved(x: Array, along_x: Array, along_y: Array) -> Array:
    """Fields moved by displacements of the shape of x, in grid points: x at the places minus the displacements.

    Cubic splines (Unser 1999, IEEE Signal Processing Magazine 16(6), 22-38): coefficients c with x = b * c at the grid
    points, b = (1, 4, 1)/6 along each axis, found by dividing spectra by (4 + 2 cos k)/6, are weighted by the B-splines
    of the four points around each place. Whole displacements are exact. Half a grid point damps waves of four points
    by 3 %, where cubic Lagrange interpolation over the same four damps them by 12 %.
    """
    return _weighted(_coefficients(x), _spline, along_x, along_y)


def moved_linearly(x: Array, along_x: Array, along_y: Array) -> Array:
    """`moved`, by bilinear interpolation of the points themselves."""
    return _weighted(x, _hat, along_x, along_y)


def _weighted(coefficients: Array, basis: Callable, along_x: Array, along_y: Array) -> Array:
    """The sum of coefficients times basis functions, at the grid points minus displacements."""
    n, shape = coefficients.shape[-1], coefficients.shape
    places = jnp.arange(n, dtype=coefficients.dtype)
    rows, columns = basis(places[:, None] - along_y), basis(places - along_x)
    flat = coefficients.reshape(*shape[:-2], n * n)
    out = jnp.zeros_like(coefficients)
    for row, row_weight in zip(*rows):
        at_row = jnp.zeros_like(coefficients)
        for column, column_weight in zip(*columns):
            index = (row % n * n + column % n).reshape(flat.shape)
            at_row = at_row + column_weight * jnp.take_along_axis(flat, index, -1).reshape(shape)
        out = out + row_weight * at_row
    return out


def _hat(places: Array) -> tuple[list[Array], list[Array]]:
    """The two grid points around places, and the weight of each."""
    below = jnp.floor(places)
    first = below.astype(jnp.int32)
    return [first, first + 1], [1.0 - (places - below), places - below]


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
