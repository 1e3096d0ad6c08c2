"""Collectives of many arrays, packed into buckets: a few large messages in place of many small ones.

For inside of `jax.shard_map`. Buckets travel one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def buckets(arrays: Sequence[Any], limit: int) -> list[list[int]]:
    """Numbers of the arrays that travel together: in order, of one type, up to `limit` bytes; larger ones alone."""
    found: list[list[int]] = []
    room, kind = 0, None
    for number, array in enumerate(arrays):
        size = array.size * array.dtype.itemsize
        if size > room or array.dtype != kind:
            found.append([])
            room, kind = limit, array.dtype
        found[-1].append(number)
        room -= size
    return found


def in_turn(tree: Any, before: Any) -> Any:
    """Arrays that are there only after those before: the same numbers, plus zero times one of the others.

    XLA for CPUs (jaxlib 0.10.2) may start two collectives of a kind at once, takes them for one, and ends the program.
    """
    last = jax.tree.leaves(before)[0]
    return jax.tree.map(lambda array: array + (0.0 * last.ravel()[0]).astype(array.dtype), tree)


def _by_buckets(travel: Callable[[list[Array], list[int]], list[Array]], arrays: Sequence[Array], limit: int):
    """What becomes of arrays of which each bucket travels together, one bucket after the other."""
    out: list[Array] = [None] * len(arrays)
    done: list[Array] = []
    for numbers in buckets(arrays, limit):
        some = [arrays[n] for n in numbers]
        done = travel(in_turn(some, done) if done else some, numbers)
        for number, array in zip(numbers, done, strict=True):
            out[number] = array
    return out


def _split(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Arrays `(..., *shape)` that stand one after the other along the last axis."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1].tolist()
    parts = jnp.split(flat, ends, -1)
    return [part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]


def all_reduced(arrays: Sequence[Array], axes: Sequence[str], limit: int) -> list[Array]:
    """Sums over devices."""

    def travel(some, _):
        if len(some) == 1:
            return [jax.lax.psum(some[0], axes)]
        return _split(jax.lax.psum(jnp.concatenate([a.ravel() for a in some]), axes), [a.shape for a in some])

    return _by_buckets(travel, arrays, limit) if axes else list(arrays)


def gathered(parts: Sequence[Array], axes: Sequence[int], devices: int, limit: int) -> list[Array]:
    """Whole arrays from the parts along `axes` of each of the devices of `fsdp`."""

    def travel(some, numbers):
        if len(some) == 1:
            return [jax.lax.all_gather(some[0], "fsdp", axis=axes[numbers[0]], tiled=True)]
        whole = jax.lax.all_gather(jnp.concatenate([a.ravel() for a in some]), "fsdp")
        pieces = _split(whole, [a.shape for a in some])
        return [joined(piece, axes[n]) for n, piece in zip(numbers, pieces, strict=True)]

    def joined(piece, axis):
        shape = list(piece.shape[1:])
        shape[axis] *= devices
        return jnp.moveaxis(piece, 0, axis).reshape(shape)

    return _by_buckets(travel, parts, limit // devices)


def scattered(arrays: Sequence[Array], axes: Sequence[int], devices: int, limit: int) -> list[Array]:
    """Own parts along `axes` of the sums over the devices of `fsdp`."""

    def travel(some, numbers):
        if len(some) == 1:
            return [jax.lax.psum_scatter(some[0], "fsdp", scatter_dimension=axes[numbers[0]], tiled=True)]
        pieces = [cut(array, axes[n]) for n, array in zip(numbers, some, strict=True)]
        flat = jnp.concatenate([piece.reshape(devices, -1) for piece in pieces], 1)
        return _split(jax.lax.psum_scatter(flat, "fsdp"), [piece.shape[1:] for piece in pieces])

    def cut(array, axis):
        shape = [*array.shape[:axis], devices, array.shape[axis] // devices, *array.shape[axis + 1 :]]
        return jnp.moveaxis(array.reshape(shape), axis, 0)

    return _by_buckets(travel, arrays, limit)
