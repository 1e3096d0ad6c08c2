"""Observations of a state: where they are, what they measure, how precise they are.

An operator is h(x) = function(G x): G picks grid points or interpolates linearly between them, the
function acts on each value. With precision r = 1/sigma^2 and r = 0 where nothing was observed,

    log p(y | x) = -1/2 sum_j r_j (y_j - h_j(x))^2 + const,
    gradient     = G^T [ f'(Gx) r (y - f(Gx)) ],      -Hessian ~ G^T diag(f'(Gx)^2 r) G   (Gauss-Newton)

and the row sums of the Gauss-Newton matrix, G^T (f'^2 r) since the rows of G sum to one, bound it from
above (Gershgorin): `stiffness` returns them, exact where observations sit on grid points. Where f or f' of a state is
not finite, the observation says nothing about that state: both leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.settings import Count, Fraction, Length, Positive, Seed, described, settings
from jaxda.shown import in_brief


class Observation(NamedTuple):
    """Values and precisions 1/sigma^2 of one shape; precision 0, or a value of NaN, means not observed."""

    values: Array
    precision: Array

    __repr__ = in_brief


@settings
class ObservationConfig:
    """The network, the operator and the error of the observations."""

    operator: Literal["identity", "scaled", "arctan"] = described(
        "scaled", "what is measured: x, s x or arctan(s x), with s from PV to K (1 for Lorenz-96)"
    )
    sigma: Positive | tuple[Positive, ...] = described(
        1.0, "standard deviation of the error, one or one a boundary [unit of the operator: K if scaled]"
    )
    boundary: Literal["both", "lower", "upper"] = described("both", "which boundaries are observed")
    spacing: Count = described(1, "every how many grid points along each axis [grid points]")
    positions: Count | tuple[tuple[float, ...], ...] | None = described(
        None,
        "observe positions between grid points by bilinear interpolation: how many, drawn at random [1], "
        "or a list of [boundary, y, x] ([x] for Lorenz-96) [grid points]",
    )
    fraction: Fraction = described(1.0, "part of these sites observed at a time, drawn at random [1]")
    redraw: bool = described(True, "draw the random sites anew at every cycle; else once")
    seed: Seed = described(0, "seed of positions and of sites drawn once [1]")
    reject: Length = described(
        20.0, "innovations over this many robust standard deviations of their cycle's are not used; inf: all are [1]"
    )


class PointFunction(NamedTuple):
    """A function of one value; its inverse (values, sigma) -> x, None where it has none; s if it is arctan(s x).

    `linear` saves filters the iterations that a slope which changes with x needs.

    Examples:
        >>> wind = PointFunction(jnp.abs)
        >>> operator = make_operator(ObservationConfig(), (4,), function=wind)
        >>> operator(jnp.array([-1.0, 2.0, -3.0, 0.5])).tolist()
        [1.0, 2.0, 3.0, 0.5]
    """

    apply: Callable[[Array], Array]
    invert: Callable[[Array, Array], Array] | None = None
    arctan_scale: float | None = None
    linear: bool = False

    __repr__ = in_brief


def _arctan(scale: float) -> PointFunction:
    # tan is inverted no closer to its pole than one error standard deviation: beyond, noise decides the sign
    def invert(y, sigma):
        edge = jnp.maximum(0.5 * math.pi - sigma, 0.0)
        return jnp.tan(jnp.clip(y, -edge, edge)) / scale

    return PointFunction(lambda x: jnp.arctan(scale * x), invert, arctan_scale=scale)


FUNCTIONS: dict[str, Callable[[float], PointFunction]] = {
    "identity": lambda scale: PointFunction(lambda x: x, lambda y, sigma: y, linear=True),
    "scaled": lambda scale: PointFunction(lambda x: scale * x, lambda y, sigma: y / scale, linear=True),
    "arctan": _arctan,
}


@dataclass(frozen=True)
class Operator:
    """h: states `(..., *shape)` -> values `(..., *shape)` on the grid or `(..., P)` at positions.

    Attributes:
        shape: of one state.
        function: acts on each interpolated value; `invert` may be None for a user's function.
        positions: `(P, len(shape))` in grid indices (boundary, y, x), or None for every grid point.
    """

    shape: tuple[int, ...]
    function: PointFunction
    positions: np.ndarray | None = None
    _corners: np.ndarray | None = field(init=False, repr=False, default=None)
    _weights: np.ndarray | None = field(init=False, repr=False, default=None)

    __repr__ = in_brief

    def __post_init__(self):
        if self.positions is not None:
            corners, weights = _linear_interpolation(np.asarray(self.positions, float), self.shape)
            object.__setattr__(self, "_corners", corners)
            object.__setattr__(self, "_weights", weights)
        out = jax.eval_shape(self.__call__, jax.ShapeDtypeStruct(self.shape, jnp.zeros(()).dtype))
        if out.shape != self.values_shape:
            wrong = f"returns {out.shape} for {self.values_shape}"
            raise ValueError(f"operator: its function {wrong}; it must keep the shape")

    @property
    def values_shape(self) -> tuple[int, ...]:
        """Shape of one set of observed values."""
        return self.shape if self.positions is None else (len(self.positions),)

    def interpolate(self, x: Array) -> Array:
        """G x: `(..., *shape)` -> `(..., *values_shape)`."""
        if self.positions is None:
            return x
        flat = x.reshape(*x.shape[: x.ndim - len(self.shape)], -1)
        return jnp.sum(flat[..., self._corners] * jnp.asarray(self._weights, x.dtype), axis=-1)

    def spread(self, values: Array) -> Array:
        """G^T v: `(*values_shape)` -> `(*shape)`, the adjoint of `interpolate`."""
        if self.positions is None:
            return values
        shares = values[:, None] * jnp.asarray(self._weights, values.dtype)
        return jnp.zeros(math.prod(self.shape), values.dtype).at[self._corners].add(shares).reshape(self.shape)

    def __call__(self, x: Array) -> Array:
        """h(x), in the unit of the observations."""
        return self.function.apply(self.interpolate(x))

    def slope(self, x: Array) -> Array:
        """f'(G x), `(*values_shape)`, by forward differentiation."""
        gx = self.interpolate(x)
        return jax.jvp(self.function.apply, (gx,), (jnp.ones_like(gx),))[1]


def _linear_interpolation(positions: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and weights `(P, corners)` of (bi)linear interpolation; horizontal axes are periodic."""
    if positions.ndim != 2 or positions.shape[1] != len(shape):
        raise ValueError(f"positions has shape {positions.shape}, not (P, {len(shape)}); give boundary, y, x indices")
    horizontal = positions[:, len(shape) - _horizontal(shape) :]
    sizes = np.array(shape[len(shape) - _horizontal(shape) :])
    base = np.floor(horizontal).astype(int)
    part = horizontal - base
    corners, weights = [], []
    for corner in np.ndindex(*(2,) * len(sizes)):
        index = (base + corner) % sizes
        columns = np.ravel_multi_index(tuple(index.T), tuple(sizes))
        if len(shape) > len(sizes):
            columns = columns + np.rint(positions[:, 0]).astype(int) * math.prod(sizes)
        corners.append(columns)
        weights.append(np.prod(np.where(corner, part, 1.0 - part), axis=1))
    return np.stack(corners, axis=1), np.stack(weights, axis=1)


def _horizontal(shape: tuple[int, ...]) -> int:
    """How many trailing axes of a state are horizontal: (2, N, N) has two, (d,) has one."""
    return 2 if len(shape) == 3 else 1


def make_operator(
    config: ObservationConfig, shape: tuple[int, ...], scale: float = 1.0, function: PointFunction | None = None
) -> Operator:
    """The operator of a configuration for states of `shape`; `function` replaces the configured one.

    Args:
        scale: s of the operators `scaled` and `arctan`, in unit of the observations per unit of the state.

    Raises:
        ValueError: an operator that does not keep the shape, a spacing that does not divide the grid.

    Examples:
        >>> network = ObservationConfig(operator="identity", positions=((0.5,), (3.0,)))
        >>> operator = make_operator(network, (4,))
        >>> operator(jnp.array([0.0, 10.0, 20.0, 30.0])).tolist()
        [5.0, 30.0]
    """
    n = shape[-1]
    if n % config.spacing:
        raise ValueError(f"spacing = {config.spacing} does not divide the {n} grid points; use a divisor of {n}")
    if config.boundary != "both" and len(shape) != 3:
        raise ValueError(f'boundary = "{config.boundary}" needs a model with two boundaries; use "both"')
    return Operator(shape, function or FUNCTIONS[config.operator](scale), _positions(config, shape))


def _positions(config: ObservationConfig, shape: tuple[int, ...]) -> np.ndarray | None:
    """Positions `(P, axes)` in grid indices, given or drawn; None for the grid itself."""
    if config.positions is None:
        return None
    levels = {"both": [0, 1], "lower": [0], "upper": [1]}[config.boundary]
    if isinstance(config.positions, int):
        rng = np.random.default_rng(config.seed)
        positions = rng.uniform(size=(config.positions, len(shape))) * np.array(shape)
        if len(shape) == 3:
            positions[:, 0] = rng.choice(levels, size=config.positions)
        return positions
    if any(len(position) != len(shape) for position in config.positions):
        raise ValueError(f"positions: each needs {len(shape)} numbers; give boundary, y, x, or x alone for Lorenz-96")
    positions = np.array(config.positions, float)
    if len(shape) == 3 and not np.isin(positions[:, 0], levels).all():
        wrong = positions[~np.isin(positions[:, 0], levels), 0][0]
        raise ValueError(f'positions: boundary {wrong:g} is not one of {levels}; boundary = "{config.boundary}" is set')
    return positions


def make_network(
    config: ObservationConfig, operator: Operator, sigma: np.ndarray | None = None, dtype=None
) -> Callable[[Array, Array], Observation]:
    """A function (key, truth) -> Observation: new errors, and new sites where the network is random.

    The truth is one state of `operator.shape`. On the grid a random site is a column: all observed
    boundaries are measured there, as in the published random networks.

    Args:
        sigma: error standard deviation of each observation, `operator.values_shape`, in place of the configured.
        dtype: of the truth, JAX's default where left out.

    Raises:
        ValueError: sigma of another shape, not positive, or with a precision out of range; a fraction that leaves no
            site.

    Examples:
        >>> network = ObservationConfig(operator="identity", sigma=0.5, fraction=0.5)
        >>> observe = make_network(network, make_operator(network, (8,)))
        >>> y = observe(jax.random.key(0), jnp.zeros(8))
        >>> int(jnp.isnan(y.values).sum()), sorted(set(y.precision.tolist()))
        (4, [0.0, 4.0])
    """
    shape = operator.values_shape
    on_grid = operator.positions is None
    columns = shape[-_horizontal(shape) :] if on_grid else shape
    always = np.ones(shape, bool)
    if on_grid:
        always[...] = _every(config.spacing, columns)
        if config.boundary != "both":
            always[1 if config.boundary == "lower" else 0] = False
    sigma = _error_of_each(config.sigma, operator) if sigma is None else np.asarray(sigma)
    if sigma.shape != shape or not (sigma > 0).all():
        raise ValueError(f"sigma has shape {sigma.shape}, values down to {sigma.min():g}; give {shape}, all positive")
    _require_precision(sigma, jnp.finfo(jnp.zeros(()).dtype if dtype is None else dtype))
    candidates = np.flatnonzero(always.reshape(-1, math.prod(columns)).any(0))
    count = round(config.fraction * len(candidates))
    if count == 0:
        least = 1 / len(candidates)
        raise ValueError(f"fraction = {config.fraction:g} of {len(candidates)} sites is none; use at least {least:.2g}")

    def chosen(key):
        if count == len(candidates):
            return jnp.asarray(always)
        picked = jax.random.permutation(key, jnp.asarray(candidates))[:count]
        sites = jnp.zeros(math.prod(columns), bool).at[picked].set(True).reshape(columns)
        return always & sites

    def observe(key: Array, truth: Array) -> Observation:
        key_error, key_sites = jax.random.split(key)
        sites = chosen(key_sites if config.redraw else jax.random.key(config.seed))
        error_sd = jnp.asarray(sigma, truth.dtype)
        values = operator(truth) + error_sd * jax.random.normal(key_error, shape, truth.dtype)
        return Observation(jnp.where(sites, values, jnp.nan), jnp.where(sites, error_sd**-2, 0.0))

    return observe


def _require_precision(sigma: np.ndarray, kind: jnp.finfo) -> None:
    """Raise ValueError unless every 1/sigma^2 is a normal number of the type: 0 would mean not observed."""
    # a factor of two inside the range, since sigma and its square are rounded too
    least, most = 2.0 * float(kind.max) ** -0.5, 0.5 * float(kind.tiny) ** -0.5
    wrong = sigma[(sigma < least) | (sigma > most)]
    if wrong.size:
        cure = f"use {least:.1e} to {most:.1e}" + (', or precision = "float64"' if kind.bits < 64 else "")
        raise ValueError(f"sigma = {wrong.flat[0]:g}: 1/sigma^2 is out of the range of {kind.dtype}; {cure}")


def _every(spacing: int, columns: tuple[int, ...]) -> np.ndarray:
    axes = [np.arange(size) % spacing == 0 for size in columns]
    return np.logical_and.outer(axes[0], axes[1]) if len(axes) == 2 else axes[0]


def _error_of_each(sigma, operator: Operator) -> np.ndarray:
    """sigma broadcast to every observation: one value, or one a boundary."""
    sigma = np.atleast_1d(np.asarray(sigma, float))
    if sigma.size == 1:
        return np.full(operator.values_shape, sigma[0])
    levels = operator.shape[0] if len(operator.shape) == 3 else 1
    if sigma.size != levels:
        raise ValueError(f"sigma has {sigma.size} values for {levels} boundaries; give one, or one a boundary")
    if operator.positions is not None:
        return sigma[np.rint(operator.positions[:, 0]).astype(int)]
    return np.broadcast_to(sigma[:, None, None], operator.values_shape)


def given(observation: Observation) -> Array:
    """Where something was observed, right or wrong: no NaN, and a precision that is not zero."""
    values, precision = observation
    return ~(jnp.isnan(values) | jnp.isnan(precision) | (precision == 0))


def screened(operator: Operator, ensemble: Array, observation: Observation, limit: float) -> Observation:
    """The observation without what no filter should use: such values become NaN, their precisions zero.

    Rejected are infinite values, infinite or negative precisions, values where h of any member is not finite, and
    those whose normalised innovation

        n_j = |y_j - mean h_j| / sqrt(1/r_j + var h_j)

    exceeds `limit` max(1, median n / 0.6745), the median over the observations still in: 0.6745 is that of |N(0, 1)|,
    so the factor is 1 for a reliable ensemble, and grows with an error that is felt everywhere, which rejects nothing.
    Where the operator saturates, as arctan does, a confident forecast of the wrong sign makes good data look absurd:
    use inf there. It is the usual check of observations against the background (as in Lorenc & Hammond 1988,
    Q. J. R. Meteorol. Soc. 114), with the cycle's own scale.

    Args:
        ensemble: forecast members `(M, *shape)`, M >= 2.
        limit: inf rejects nothing by its size.

    Examples:
        >>> operator = make_operator(ObservationConfig(operator="identity"), (4,))
        >>> ensemble = jnp.array([-1.0, 0.0, 1.0])[:, None] * jnp.ones(4)
        >>> y = Observation(jnp.array([0.1, -0.5, 1000.0, 0.3]), jnp.ones(4))
        >>> screened(operator, ensemble, y, limit=20.0).precision.tolist()
        [1.0, 1.0, 0.0, 1.0]
    """
    values, precision = observation
    h = operator(ensemble)
    sound = given(observation) & jnp.isfinite(values) & jnp.isfinite(precision) & (precision > 0)
    sound &= jnp.isfinite(h).all(0)
    h = jnp.where(sound, h, 0.0)
    variance = 1.0 / jnp.where(sound, precision, 1.0) + jnp.var(h, axis=0, ddof=1)
    size = jnp.abs(jnp.where(sound, values, 0.0) - h.mean(0)) / jnp.sqrt(variance)
    middle = jnp.nanmedian(jnp.where(sound, size, jnp.nan))
    scale = jnp.fmax(1.0, middle / 0.6745)  # fmax: the median of nothing is NaN
    kept = sound & (size <= limit * scale)
    return Observation(jnp.where(kept, values, jnp.nan), jnp.where(kept, precision, 0.0))


def cleaned(observation: Observation) -> Observation:
    """The same with values that say nothing set to zero at precision zero: what every filter does first.

    Examples:
        >>> cleaned(Observation(jnp.array([2.0, jnp.nan]), jnp.array([4.0, 4.0]))).precision.tolist()
        [4.0, 0.0]
    """
    values, precision = observation
    seen = jnp.isfinite(values) & jnp.isfinite(precision) & (precision > 0)
    return Observation(jnp.where(seen, values, 0.0), jnp.where(seen, precision, 0.0))


def linearised(operator: Operator, observation: Observation, x: Array) -> tuple[Array, Array, Array]:
    """h(x), f'(G x) and the precision, `(*values_shape)`, at one state x; all zero where one is not finite or zero.

    The one place that keeps NaN out: a precision of zero does not, since NaN times zero is NaN.
    """
    gx = operator.interpolate(x)
    hx, slope = jax.jvp(operator.function.apply, (gx,), (jnp.ones_like(gx),))
    used = (observation.precision > 0) & jnp.isfinite(hx) & jnp.isfinite(slope)
    return tuple(jnp.where(used, part, 0.0) for part in (hx, slope, observation.precision))


def likelihood_score(operator: Operator, observation: Observation, x: Array) -> Array:
    """Gradient of log p(y | x) with respect to one state x, `(*shape)`; the observation is cleaned.

    Examples:
        >>> operator = make_operator(ObservationConfig(operator="identity"), (2,))
        >>> y = Observation(jnp.array([1.0, 5.0]), jnp.array([4.0, 0.0]))  # the second is not observed
        >>> likelihood_score(operator, y, jnp.zeros(2)).tolist()
        [4.0, 0.0]
    """
    hx, slope, precision = linearised(operator, observation, x)
    return operator.spread(slope * precision * (observation.values - hx))


def stiffness(operator: Operator, observation: Observation, x: Array) -> Array:
    """Row sums of the Gauss-Newton Hessian of -log p(y | x), `(*shape)`, zero where nothing is observed."""
    _, slope, precision = linearised(operator, observation, x)
    return operator.spread(slope**2 * precision)
