"""The published EnSF of the Lorenz-96 scaling problem: one member's paths from noise to t = 0, on a part of the ring.

Each member is its own kernel (`jaxda.filters.ensf`, weights "per-member"), and the scores act point by point: an Euler
step is

    z <- c_z z + c_x x + c_g g(z) + c_n n,   c_z = 1 - dt (b + sigma^2/beta^2),   c_x = dt sigma^2 alpha/beta^2,
    c_g = dt sigma^2 h,   c_n = sqrt(dt) sigma,

with n standard normals made where they are used (`jaxda.numerics.counter`), by the number of the point on the ring.

* The update has g = grad log p(y | z), arctan at each point: a block goes through all steps in the cache before the
  next one begins, so that the state passes through memory once.
* A pre-prediction has g = grad_z log p(y | M(z)), M the model until the observations (Yin et al. 2024, SC24, Sec. 5):
  each step is a sweep of windows that hold what M and its transpose need (`jaxda.models.lorenz96_windows`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.filters import ensf
from jaxda.models import lorenz96_windows
from jaxda.numerics import counter
from jaxda.numerics.elementary import arctan_and_slope
from jaxda.parallel import ring as rings
from jaxda.parallel.kernels import kernel
from jaxda.parallel.ring import Ring


def _rounded(x: Array) -> Array:
    """float32 to the nearest bfloat16, ties to even, as uint16: XLA's CPU code for that type converts whole arrays."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(jnp.uint16)


def _widened(bits: Array) -> Array:
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)


#: how a path is held in memory between steps: the type, to it, and back
PACKING = {"float32": (jnp.float32, lambda x: x, lambda x: x), "bfloat16": (jnp.uint16, _rounded, _widened)}


def coefficients(config: ensf.EnSFConfig) -> np.ndarray:
    """c_z, c_x, c_g and c_n of every step, `(steps, 4)`.

    Raises:
        ValueError: settings that an Euler step of single points does not have.
    """
    for name, wanted in {"weights": "per-member", "integrator": "euler", "stop": 0.0, "tolerance": 0.0}.items():
        if getattr(config, name) != wanted:
            raise ValueError(f"{name} = {getattr(config, name)!r}: the ring's filter is that of {name} = {wanted!r}")
    dt = 1.0 / config.steps
    t = 1.0 - dt * np.arange(config.steps)
    alpha, beta2, b, sigma2 = ensf.schedule(config, t)
    h = np.asarray(ensf.DAMPING[config.damping](jnp.asarray(t)))
    return np.stack(
        [1.0 - dt * (b + sigma2 / beta2), dt * sigma2 * alpha / beta2, dt * sigma2 * h, np.sqrt(dt * sigma2)], 1
    )


def observed(z: Array, y: Array, sigma: float) -> Array:
    """grad log p(y | z) of y = arctan(z) + N(0, sigma^2)."""
    angle, slope = arctan_and_slope(z)
    return (y - angle) * (slope * sigma**-2)


def make_update(config: ensf.EnSFConfig, ring: Ring, sigma: float) -> Callable[[Array, Array, Array], Array]:
    """A function: words of a key, forecast and observations `(part,)` -> analysis `(part,)`.

    Raises:
        ValueError: see `coefficients`.
    """
    table = jnp.asarray(coefficients(config), jnp.float32)
    steps, block = config.steps, ring.window

    @partial(kernel, platform=ring.platform)
    def two(words, pair, number, z, x, y):
        """Two steps, whose noise is made together."""
        numbers = number + jnp.arange(block, dtype=jnp.uint32)
        for step, noise in enumerate(counter.normal_pair(words, pair, numbers)):
            c_z, c_x, c_g, c_n = table[jnp.minimum(2 * pair + step, steps - 1)]
            moved = c_z * z + c_x * x + c_g * observed(z, y, sigma) + c_n * noise
            z = jnp.where(2 * pair + step < steps, moved, z)  # an odd number of steps ends in half a pair
        return z

    def update(words, x, y):
        offset = rings.first_place(ring)

        def one(k, x):
            number = offset + jnp.asarray(k * block, jnp.uint32)
            x_k, y_k = (jax.lax.dynamic_slice(whole, (k * block,), (block,)) for whole in (x, y))
            start = counter.normals(words, steps, number + jnp.arange(block, dtype=jnp.uint32))
            go = lambda pair, z: two(words, pair, number, z, x_k, y_k)
            z = jax.lax.fori_loop(0, -(-steps // 2), go, start)
            return jax.lax.dynamic_update_slice(x, z, (k * block,))

        return jax.lax.fori_loop(0, ring.part // block, one, x)

    return update


def make_pre_prediction(config, ring: Ring, model, between: int, sigma: float, compared: str, state: str) -> Callable:
    """A function: words of a key, member `(part,)`, observations with halos `(part + 2 halo,)` -> member `(part,)`.

    Args:
        config: EnSFConfig; model: Lorenz96Config; between: its steps until the observations; sigma: their error.
        compared: with arctan of the observed quantity, "observed", or, as the public program does, with "state".
        state: type of the path between steps, a name in PACKING.

    Raises:
        ValueError: see `coefficients`; a halo that is not that of the model's steps.
    """
    table = jnp.asarray(coefficients(config), jnp.float32)
    halo, window = lorenz96_windows.halo(between), ring.window
    if ring.halo != halo:
        raise ValueError(f"halo = {ring.halo}: {between} steps need {halo}; make the ring with that")
    forward, backward = lorenz96_windows.make_window(model, between, ring.platform)
    left = between * lorenz96_windows.LEFT
    own = partial(kernel, platform=ring.platform)
    dtype, packed, unpacked = PACKING[state]

    @own
    def slope_of(z, y, first):
        y = jax.lax.dynamic_slice(y, (first + left,), z.shape)
        return observed(z, y, sigma) if compared == "observed" else (y - z) * sigma**-2

    @own
    def moved(words, step, number, first, z, x, g):
        c_z, c_x, c_g, c_n = table[step]
        noise = counter.normals(words, step, number + first.astype(jnp.uint32) + jnp.arange(window, dtype=jnp.uint32))
        x = jax.lax.dynamic_slice(x, (first,), (window,))
        return c_z * z[halo : halo + window] + c_x * x + c_g * g + c_n * noise

    def pre_prediction(words, x, y):
        offset = rings.first_place(ring)

        def start(k, z):
            first = k * window
            number = offset + jnp.asarray(first, jnp.uint32) + jnp.arange(window, dtype=jnp.uint32)
            return jax.lax.dynamic_update_slice(z, packed(counter.normals(words, config.steps, number)), (first,))

        def advance(step, z):
            def on_window(first, z):
                z = own(unpacked)(z)
                after, stages = forward(z)
                g = backward(stages, slope_of(after, y, first))
                return own(packed)(moved(words, step, offset, first, z, x, g))

            return rings.sweep(ring, on_window, z)

        z = jax.lax.fori_loop(0, ring.part // window, start, jnp.zeros(x.shape, dtype))
        return unpacked(jax.lax.fori_loop(0, config.steps, advance, z))

    return pre_prediction
