"""What this machine can do at most: runs that only copy, multiply or transform, to be timed in turn with a program.

They take as many devices as the program does, all busy at once, as CPU devices share cores and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxda.benchmarks.counting import Counts, fft_work
from jaxda.benchmarks.timing import Run, compiled
from jaxda.training import flops

#: bytes on a device whose copy is timed: as many as a program has, within these
SMALLEST, LARGEST = 2**20, 2**28
#: bytes that a device copies in one call at least, for a call to take long enough
COPIED = 2**28
#: complex transforms on a device, and their length
TRANSFORMS = (512, 512)
#: times that they are done and undone in one call
TURNS = 8


class Share(NamedTuple):
    """The ceiling that is nearest to a program, its rate [B/s or FLOP/s], and the share of it that is reached [1]."""

    nearest: str
    rate: float
    share: float


def copy(size: float, devices: int = 1) -> Run:
    """Passes over `size` bytes on each device, in place; the work is bytes, read and written.

    Of a size that a cache holds it is the cache's rate: a program's data may be there too.
    """
    count = round(min(max(size, SMALLEST), LARGEST) / 4)
    passes = max(1, COPIED // (8 * count))
    over = lambda a: jax.lax.fori_loop(0, passes, lambda _, a: a + 1.0, a)
    function, kept = jax.jit(over, donate_argnums=0), [_spread(jnp.zeros((devices, count), jnp.float32), devices)]

    def call():
        kept[0] = function(kept[0])  # in place, so that no new pages are asked of the system
        return kept[0]

    return Run(call, 1.0, 8.0 * count * passes * devices)


def product(dtype: str = "float32", devices: int = 1) -> Run:
    """A product of square matrices on each device."""
    side = flops.SIDES.get(jax.default_backend(), flops.LARGE_SIDES)[1]
    a = _spread(jax.random.normal(jax.random.key(0), (devices, side, side), dtype), devices)
    return _each(lambda a: (a[0] @ a[0])[None], a)._replace(work=2.0 * side**3 * devices)


def transform(dtype: str = "float32", devices: int = 1) -> Run:
    """Complex transforms along one direction on each device, there and back, again and again."""
    a = _spread(jax.random.normal(jax.random.key(0), (devices, *TRANSFORMS), jnp.result_type(dtype, 1j)), devices)
    over = lambda a: jax.lax.fori_loop(0, TURNS, lambda _, a: jnp.fft.ifft(jnp.fft.fft(a)), a)
    return _each(over, a)._replace(work=2 * TURNS * fft_work("FFT", TRANSFORMS[1:], a.size))


def runs(counts: Counts, dtype: str) -> dict[str, Run]:
    """The ceilings of a program: copies of as much memory as it has, products and transforms of a type."""
    devices = counts.devices
    found = {"copy": copy(counts.memory / devices, devices), "product": product(dtype, devices)}
    return found | ({"FFT": transform(dtype, devices)} if counts.fft else {})


def share_of(counts: Counts, seconds: float, rates: Mapping[str, float]) -> Share:
    """Of all ceilings the one that alone would take the program the longest, and that time over the measured one.

    Args:
        seconds: of one call of the program.
        rates: of the ceilings [B/s for copy, else FLOP/s]. Elementwise work and factorizations are measured by the
            rate of products, the best at which a device computes.
    """
    work = {"copy": counts.bytes, "product": counts.arithmetic, "FFT": counts.fft}
    least = {name: work[name] / rate for name, rate in rates.items()}
    nearest = max(least, key=least.get)
    return Share(nearest, rates[nearest], least[nearest] / seconds)


def rates_of(found: Mapping[str, Run], seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Rates of timed ceilings, each of its fastest run: a ceiling is what was reached at most."""
    return {name: run.work / min(seconds[name]) for name, run in found.items()}


def _spread(a: jax.Array, devices: int) -> jax.Array:
    mesh = jax.make_mesh((devices,), ("device",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:devices])
    return jax.device_put(a, NamedSharding(mesh, PartitionSpec("device")))


def _each(function: Callable, a: jax.Array) -> Run:
    """The function on each device's part; left to the compiler some would gather the parts."""
    along = a.sharding.spec
    return compiled(jax.shard_map(function, mesh=a.sharding.mesh, in_specs=along, out_specs=along), a)
