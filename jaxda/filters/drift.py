"""What a model does wrong everywhere alike: measured from all innovations at once, and removed.

**Long waves.** A model with wrong parameters drifts, and its drift is smooth: the shape of the jet, the mean. The
ensemble, run with the same model, does not know it, and a localised analysis cannot see it: within the taper's radius
the drift is a constant, which M members fit a little better here and a little worse there. Seen from the whole domain
it is one number known from all observations. So waves longer than twice the cut-off are taken out of the innovations.

**Bands of the mean.** A model that cannot resolve what the truth does makes up its smallest scales. The mean of a
perfect forecast is orthogonal to its own error; where it is not, the best linear forecast is a multiple of it (Leith
1974, Mon. Wea. Rev. 102, 409-418), one for each scale. A neighbourhood has too few data to tell, the domain has
thousands: the mean's parts in bands of wavenumber, each of mean square 1, are looked for in what the waves leave.

With Phi the waves or the bands (one set for each boundary), W = 1/(R + the ensemble's variance) and d the innovations,
weighted least squares gives their amplitudes

    a = (A + E)^-1 Phi^T H^T W d,    A = Phi^T H^T W H Phi,    E a small ridge,

whose variance, were the ensemble right, is for the i-th

    c_i = sum_m p_im^2 + [(A + E)^-1 (Phi^T H^T W R W H Phi) (A + E)^-1]_ii,    p = (A + E)^-1 Phi^T H^T W H X.

With k_i and r_i the two terms, of the members and of the observations; r is larger by the factor, if it is above 1, by
which the mean square of the innovations exceeds R + the ensemble's variance: what no member knows may be white noise,
or data that are worse than they say. Innovations are clipped at three standard deviations, theirs or what is
expected (Huber 1964, Ann. Math. Stat. 35, 73-101). All waves of one length, and each band, have at both boundaries one
further variance s, the drift's: a_i ~ N(0, s + k_i + r_i). Its posterior, on a grid of powers of two and 0 but for
small odds, is a closed form, and the i-th is given E[s/(s + c_i)] a_i, the mean of what the drift has of it. (Dee & da
Silva 1998, Q. J. R. Meteorol. Soc. 124, 269-295, estimate such a part with a fixed share of the forecast error's
covariance; here its share is measured at each cycle.)

For an operator that is not linear the drift is measured once, from the data that expectation propagation ends with:
those on the way there are off in the same sense wherever the state is large, which is a long wave.

**What stays uncertain.** Before the data a wave has variance k + s, after them (k + s) r/(k + s + r). The members,
moved by the same data, have k r/(k + r) of it and lack the rest,

    s r^2/((k + r)(k + s + r)),

which is added to them as random amplitudes. It is small where all is observed, 2 % of the analysis's variance, but
long waves carry all others with them: a forecast from members without it was 1.03 K off at a spread of 0.71 K, and
with it 0.95 K at 0.83 K (SQG, U = 27 for 30 m/s, docs/score_table.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.filters.localization import Geometry
from jaxda.observations import Operator

#: highest wavenumber of the waves, along the longest axis
HIGHEST = 4
#: bands up to the number of points as wavenumber: half of that is on the grid, below an eighth little is made up
BANDS = 16
#: ridge, as a part of the largest diagonal entry: what the network does not see is left alone
RIDGE = 0.01
#: candidates for the drift's variance above zero
HALVINGS = 12
#: innovations count up to so many standard deviations, the ensemble's and R's or 1.48 times their own median
OUTLIER, SD_OF_MEDIAN = 3.0, 1.4826


def axis_waves(size: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of mean square 1 along a periodic axis, `(size, J)`, up to wavenumber `last`; those, `(J,)`."""
    numbers = np.arange(1, min(last, (size - 1) // 2) + 1)
    angle = 2 * np.pi * np.outer(np.arange(size), numbers) / size
    parts = [np.ones((size, 1)), np.sqrt(2) * np.cos(angle), np.sqrt(2) * np.sin(angle)]
    wavenumbers = [[0.0], numbers, numbers]
    if size % 2 == 0 and last >= size // 2:
        parts.append(np.cos(np.pi * np.arange(size))[:, None])
        wavenumbers.append([size / 2])
    return np.concatenate(parts, 1), np.concatenate(wavenumbers)


def waves(columns: tuple[int, ...], highest: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Real waves of mean square 1 of wavenumber up to `highest` on the longest axis, as products over the axes.

    Returns:
        For each axis its cosines and sines `(size, J)`, column j those of wave j; and each wave's length class `(J,)`,
        the wavenumber rounded.
    """
    longest = max(columns)
    axes = [axis_waves(size, int(highest * size / longest)) for size in columns]
    choice = np.stack([part.ravel() for part in np.meshgrid(*[np.arange(len(k)) for _, k in axes], indexing="ij")])
    wavenumber = np.sqrt(
        sum((k[pick] * longest / size) ** 2 for (_, k), pick, size in zip(axes, choice, columns, strict=True))
    )
    kept = wavenumber <= highest
    factors = [basis[:, pick[kept]] for (basis, _), pick in zip(axes, choice, strict=True)]
    return factors, np.rint(wavenumber[kept]).astype(int)


class Drift(NamedTuple):
    """The drift's mean `(*shape)`, and members of what stays uncertain of it, `(M, *shape)`, of mean zero."""

    mean: Array
    members: Array


def measured(amplitude: Array, of_members: Array, of_noise: Array, shell: np.ndarray, odds: float):
    """Mean of each wave's drift and the variance that the members lack of it, `(levels, J)` each.

    Args:
        amplitude: a; of_members, of_noise: the two parts of c, `(levels, J)`.
        shell: length class of each wave, `(J,)`.
        odds: prior probability of s > 0.
    """
    number, classes = np.unique(shell, return_inverse=True)
    of_class = jnp.asarray(np.eye(len(number))[classes], amplitude.dtype)  # (J, C)
    top = 2.0 * (amplitude**2).mean(0) @ of_class / of_class.sum(0)
    halved = np.concatenate([[0.0], 0.5 ** np.arange(HALVINGS)])
    s = jnp.asarray(halved, amplitude.dtype)[:, None] * top  # (S, C)
    prior = np.array([math.log1p(-odds), *[math.log(odds / HALVINGS)] * HALVINGS])
    total = s[:, None, classes] + of_members + of_noise  # (S, levels, J)
    misfit = (amplitude**2 / total + jnp.log(total)).sum(1) @ of_class
    weight = jax.nn.softmax(jnp.asarray(prior, amplitude.dtype)[:, None] - 0.5 * misfit, axis=0)
    share = jnp.einsum("sj,sj,slj->lj", weight[:, classes], s[:, classes], 1.0 / total)
    return share * amplitude, share * of_noise**2 / (of_members + of_noise)


class Basis(NamedTuple):
    """Fields of mean square 1 whose amplitudes `(levels, J)` are sought.

    Attributes:
        field: amplitudes -> their sum `(*shape)`.
        project: the adjoint of operator.interpolate(field), values `(*values_shape)` -> `(levels, J)`.
        shell: class of each, `(J,)`: those of one class share a variance.
    """

    field: Callable[[Array], Array]
    project: Callable[[Array], Array]
    shell: np.ndarray


def of_waves(geometry: Geometry, operator: Operator, highest: float, dtype) -> Basis:
    """The waves up to a wavenumber, as products over the axes."""
    factors, shell = waves(geometry.columns, highest)
    bases = [jnp.asarray(factor, dtype) for factor in factors]
    letters = "yx"[: len(factors)]
    along = ",".join(letter + "j" for letter in letters)

    def field(a):
        return jnp.einsum(f"lj,{along}->l{letters}", a, *bases, optimize=True).reshape(geometry.shape)

    def project(values):
        on_grid = operator.spread(values).reshape(geometry.levels, *geometry.columns)
        return jnp.einsum(f"l{letters},{along}->lj", on_grid, *bases, optimize=True)

    return Basis(field, project, shell)


def of_bands(geometry: Geometry, operator: Operator, mean: Array) -> Basis:
    """The mean's own parts in bands of wavenumber, from an eighth of the grid points along the longest axis on.

    By matrix products: Fourier transforms here, in a filter on two CPU devices, end in an error of XLA's about the
    layout of their operand (jaxlib 0.10.2).
    """
    columns, longest = geometry.columns, max(geometry.columns)
    bases, numbers = zip(*(axis_waves(size, size // 2) for size in columns), strict=True)
    bases = [jnp.asarray(basis, mean.dtype) for basis in bases]
    grid, waves_of = "yx"[: len(columns)], "jk"[: len(columns)]
    between = ",".join(map("".join, zip(grid, waves_of, strict=True)))
    squares = np.meshgrid(*[(k * longest / n) ** 2 for k, n in zip(numbers, columns, strict=True)], indexing="ij")
    number = np.floor(np.sqrt(sum(squares)) * BANDS / longest).astype(int)
    kept = np.arange(BANDS // 8, BANDS // 2 + 1).reshape(-1, *[1] * len(columns))
    in_band = jnp.asarray(np.minimum(number, kept[-1]) == kept, mean.dtype)
    on_grid = mean.reshape(geometry.levels, *columns)
    amplitude = jnp.einsum(f"l{grid},{between}->l{waves_of}", on_grid, *bases, optimize=True) / math.prod(columns)
    parts = jnp.einsum(f"bl{waves_of},{between}->bl{grid}", in_band[:, None] * amplitude, *bases, optimize=True)
    axes = tuple(range(2, parts.ndim))
    size = jnp.sqrt((parts**2).mean(axes, keepdims=True))
    parts = jnp.where(size > 0, parts / jnp.where(size > 0, size, 1.0), 0.0)

    def field(a):
        return jnp.einsum("lj,jl...->l...", a, parts).reshape(geometry.shape)

    def project(values):
        return jnp.einsum("l...,jl...->lj", operator.spread(values).reshape(geometry.levels, *columns), parts)

    return Basis(field, project, np.arange(len(kept)))


def make_drift(geometry: Geometry, operator: Operator, cutoff: float, odds: float) -> Callable | None:
    """A function (key, mean, innovation, variance, y) -> `Drift`; None where no wave is twice as long as the cut-off.

    Its arguments are the forecast's mean `(*shape)`, innovations and their error variances `(*values_shape)`, variance
    inf where nothing was observed, and the members' deviations over sqrt(M - 1) there, `(M, *values_shape)`.
    """
    longest = max(geometry.columns) * geometry.spacing
    highest = min(HIGHEST, math.floor(longest / (2.0 * cutoff))) if math.isfinite(cutoff) else 0
    if highest < 1:
        return None

    def drift(key: Array, mean: Array, innovation: Array, variance: Array, y: Array) -> Drift:
        key_waves, key_bands = jax.random.split(key)
        smooth = sought(key_waves, of_waves(geometry, operator, highest, mean.dtype), innovation, variance, y)
        rest = innovation - operator.interpolate(smooth.mean)
        made_up = sought(key_bands, of_bands(geometry, operator, mean), rest, variance, y)
        return Drift(*map(jnp.add, smooth, made_up))

    def sought(key: Array, basis: Basis, innovation: Array, variance: Array, y: Array) -> Drift:
        """What the innovations hold of a basis."""
        dtype, (levels, count) = innovation.dtype, (geometry.levels, len(basis.shell))
        seen = jnp.isfinite(variance)
        known = jnp.where(seen, variance, 1.0)
        weight = jnp.where(seen, 1.0 / (known + (y**2).sum(0)), 0.0)

        def products(j):
            one = operator.interpolate(basis.field(jnp.ones((levels, 1), dtype) * (jnp.arange(count) == j)))
            return basis.project(weight * one), basis.project(weight**2 * known * one)

        normal, noise = jax.lax.map(products, jnp.arange(count))
        normal, noise = jnp.moveaxis(normal, 0, -1), jnp.moveaxis(noise, 0, -1)  # (levels, J, J)
        top = jnp.max(jnp.diagonal(normal, axis1=-2, axis2=-1))
        ridge = jnp.where(top > 0, RIDGE * top, 1.0) * jnp.eye(count, dtype=dtype)
        factor = jax.scipy.linalg.cho_factor(normal + ridge)
        solve = lambda right: jax.scipy.linalg.cho_solve(factor, right)
        of_members = jnp.moveaxis(jax.lax.map(lambda one: basis.project(weight * one), y), 0, -1)
        of_members = (solve(of_members) ** 2).sum(-1)
        of_noise = jnp.diagonal(solve(jnp.swapaxes(solve(noise), -1, -2)), axis1=-2, axis2=-1)
        size = jnp.abs(jnp.where(seen, innovation, jnp.nan))
        usual = jnp.maximum(jnp.sqrt(known + (y**2).sum(0)), SD_OF_MEDIAN * jnp.nan_to_num(jnp.nanmedian(size)))
        innovation = jnp.where(seen, jnp.clip(innovation, -OUTLIER * usual, OUTLIER * usual), 0.0)
        amplitude = solve(basis.project(weight * innovation)[..., None])[..., 0]
        excess = jnp.sum(weight * innovation**2) / jnp.maximum(seen.sum(), 1)
        of_noise = jnp.maximum(of_noise * jnp.maximum(excess, 1.0), jnp.finfo(dtype).tiny)
        amplitude, lacking = measured(amplitude, of_members, of_noise, basis.shell, odds)
        drawn = jax.random.normal(key, (len(y), levels, count), dtype)
        drawn = (drawn - drawn.mean(0)) * math.sqrt(len(y) / (len(y) - 1)) * jnp.sqrt(lacking)
        return Drift(basis.field(amplitude), jax.lax.map(basis.field, drawn))

    return drift
