"""Pieces of transformers on the torus, without arrays of their own: attention, dropout, patches, positions."""

from __future__ import annotations

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

#: lengths of the waves of sin-cos embeddings go up to 2 pi times this (Vaswani et al. 2017, Sec. 3.5)
LONGEST = 10000.0


def flat_product(x: Array, kernel: Array, dimensions, **given) -> Array:
    """`lax.dot_general` of all leading axes of x as one: on CPUs the gradients of that form take two thirds."""
    out = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **given)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def gelu(x: Array) -> Array:
    """GELU by the error function, as PyTorch has it (Hendrycks & Gimpel 2016, eq. 1)."""
    return jax.nn.gelu(x, approximate=False)


def dropped(keys: Array | None, rate, x: Array, shape: tuple[int, ...]) -> Array:
    """x with entries of a mask of this shape (which broadcasts) dropped at a rate, the others scaled up.

    Each sample has its own key `(B,)`: its mask does not depend on which others are on the same device.
    """
    # a mask of ones would take its random numbers all the same
    if keys is None or (isinstance(rate, float) and rate == 0.0):
        return x
    # 16 bits decide: a rate is met to 1e-5
    kept = jax.vmap(lambda key: _halfwords(key, shape[1:]))(keys) >= jnp.round(65536.0 * rate)
    return jnp.where(kept, x / jnp.maximum(1.0 - rate, 1e-6).astype(x.dtype), jnp.zeros((), x.dtype))


def _halfwords(key: Array, shape: tuple[int, ...]) -> Array:
    """Random numbers of 16 bits, two of each that is made: JAX would make 32 bits for each and throw half away."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:count].reshape(shape)


def split_keys(keys: Array | None, count: int):
    """Keys `(count, B)` of keys `(B,)`, or as often None."""
    return [None] * count if keys is None else jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def attention(q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
    """Attention of queries `(B, L, H, d)` to keys; by the device's own kernel where it has one.

    Without one, heads are moved before the tokens, which takes half the time of jax.nn's form on a CPU, and double
    precision stays double. Logits and their softmax have at least single precision in both.
    """
    if jax.default_backend() != "cpu" and q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v, bias=bias)
    q, k, v = (jnp.moveaxis(part, 2, 1) for part in (q, k, v))
    exact = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=exact) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits if bias is None else logits + bias, -1).astype(v.dtype)
    return jnp.moveaxis(jnp.einsum("bhqk,bhkd->bhqd", weights, v), 1, 2)


@lru_cache
def torus_distances(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns `(L, L)` from each patch to each, modulo the number of patches along an axis."""
    places = np.stack(np.divmod(np.arange(side * side), side))
    down, right = (places[:, None, :] - places[:, :, None]) % side
    return down, right


def turned(x: Array, side: int) -> Array:
    """Heads `(B, L, H, d)` turned in d/2 planes, half of them by each axis, by 2 pi k (place/side), k = 1, 2, ..."""
    quarter = x.shape[-1] // 4
    places = np.stack(np.divmod(np.arange(side * side), side), -1)  # (L, 2)
    angle = 2 * np.pi * places[:, :, None] * (1 + np.arange(quarter)) / side
    angle = angle.reshape(side * side, 1, 2 * quarter)
    cos, sin = jnp.asarray(np.cos(angle), x.dtype), jnp.asarray(np.sin(angle), x.dtype)
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


def windows(x: Array, patch: int, overlap: int) -> Array:
    """Patches of `(B, V, N, N)` with `overlap` points around them, over periodic edges: `(B, V, L, points)`."""
    side, window = x.shape[-1] // patch, patch + 2 * overlap
    index = (patch * np.arange(side)[:, None] + np.arange(-overlap, patch + overlap)) % x.shape[-1]
    cut = x[:, :, index][..., index]  # (B, V, side, window, side, window)
    return jnp.moveaxis(cut, 4, 3).reshape(*x.shape[:2], side * side, window * window)


def sin_cos(places: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of places `(n,)` at width/2 wavelengths: `(n, width)` (Vaswani et al. 2017, Sec. 3.5)."""
    angle = places[:, None] * LONGEST ** (-np.arange(width // 2) / (width / 2))
    return np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)


def sin_cos_2d(side: int, width: int) -> np.ndarray:
    """Half of the width for each axis, x first: `(side^2, width)`."""
    y, x = np.divmod(np.arange(side * side), side)
    return np.concatenate([sin_cos(x, width // 2), sin_cos(y, width // 2)], 1)
