"""A periodic line of points cut into parts, one a device, and these into windows that a core's cache holds.

A function of a point and its neighbours goes over a part in windows, each with a halo on both sides. It replaces the
part in place: what a window's left neighbour was is kept, `halo` points, and what its right one is has not been
touched. So a sweep needs no second array, and its result depends neither on the windows nor on the devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxda.parallel.kernels import kernel

AXIS = "ring"
#: points of a window at most. On CPUs 40 stages of it stay in the cache of a core (docs/lorenz96.md). Elsewhere loops
#: are launched one by one and want to be long: 40 stages are 42 MB, a second-level cache (not measured)
LARGEST = {"cpu": 2048, "other": 1 << 18}


@dataclass(frozen=True)
class Ring:
    """How many points, halo points on either side, windows' points, and the devices."""

    d: int
    halo: int
    window: int
    mesh: Mesh

    @property
    def part(self) -> int:
        """Points of each device."""
        return self.d // self.mesh.size

    @property
    def platform(self) -> str:
        """Of its devices."""
        return self.mesh.devices.flat[0].platform

    @property
    def spec(self) -> PartitionSpec:
        """Of arrays `(d,)`."""
        return PartitionSpec(AXIS)


def make_ring(d: int, halo: int, devices: list | None = None, largest: int | None = None) -> Ring:
    """The ring over as many of the devices as divide it into parts of a halo or more, in windows that divide a part.

    Args:
        devices: None for those of this process.
        largest: points of a window at most; what suits the platform where left out.

    Raises:
        ValueError: no number between the halo and the largest window divides a part.
    """
    devices = jax.local_devices() if devices is None else devices
    platform = devices[0].platform
    largest = largest or LARGEST.get(platform, LARGEST["other"])
    count = max(k for k in range(1, len(devices) + 1) if d % k == 0 and (k == 1 or d // k >= halo))
    part = d // count
    fitting = [w for w in range(max(halo, 1), largest + 1) if part % w == 0]
    if part > largest and not fitting:
        raise ValueError(
            f"d = {d}: {part} points on each of {count} devices have no divisor from {halo} to {largest}, for windows; "
            "use a multiple of 1000"
        )
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])
    return Ring(d, halo, part if part <= largest else fitting[-1], mesh)


def first_place(ring: Ring) -> Array:
    """Number, uint32, of the first point of this device's part."""
    return jax.lax.axis_index(AXIS).astype(jnp.uint32) * np.uint32(ring.part)


def beside(ring: Ring, x: Array) -> tuple[Array, Array]:
    """Of a part `(part,)` the halos to its left and right, `(halo,)`, from the devices that have them.

    On one device the ring may be shorter than a halo, which then goes around it several times.
    """
    if ring.mesh.size == 1:
        numbers = np.arange(-ring.halo, ring.part + ring.halo) % ring.part
        return x[numbers[: ring.halo]], x[numbers[-ring.halo :]]
    right = [(k, (k + 1) % ring.mesh.size) for k in range(ring.mesh.size)]
    left = [(target, source) for source, target in right]
    end, start = x[ring.part - ring.halo :], x[: ring.halo]
    return jax.lax.ppermute(end, AXIS, right), jax.lax.ppermute(start, AXIS, left)


def extended(ring: Ring, x: Array) -> Array:
    """A part `(part,)` between its halos, `(part + 2 halo,)`."""
    left, right = beside(ring, x)
    return jnp.concatenate([left, x, right])


def sweep(ring: Ring, function: Callable, x: Array) -> Array:
    """A part `(part,)` in which each window `(window,)` is replaced by a function of it with its halos.

    Args:
        function: first point of the window in the part, `(window + 2 halo,)` -> `(window,)`.
    """
    halo, window = ring.halo, ring.window
    left, right = beside(ring, x)
    if window == ring.part:
        return function(jnp.zeros((), jnp.int32), jnp.concatenate([left, x, right])).astype(x.dtype)

    count = ring.part // window

    @partial(kernel, platform=ring.platform)
    def read(x, left, right, k):
        """The one place that reads the part: whatever else did might come after the writing, and cost a copy."""
        old = jax.lax.dynamic_slice(x, (k * window,), (window,))
        after = jax.lax.dynamic_slice(x, (k * window + window,), (halo,))  # in the last window not what it is called
        return jnp.concatenate([left, old, jnp.where(k == count - 1, right, after)])

    def one(k, carry):
        x, left = carry
        around = read(x, left, right, k)
        new = function(k * window, around).astype(x.dtype)
        return jax.lax.dynamic_update_slice(x, new, (k * window,)), around[window : window + halo]

    return jax.lax.fori_loop(0, count, one, (x, left))[0]
