"""What a jitted function costs on a mesh that need not exist: it is compiled for abstract arrays, and nothing is run.

With `--xla_force_host_platform_device_count` a CPU stands in for any number of devices. Its compiler does the same
partitioning as a GPU's, but products of 16-bit types are widened to 32 bits, and little is fused: temporaries are
larger than a GPU's would be.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax

from jaxda.parallel import hlo
from jaxda.parallel.scaling import Work
from jaxda.parallel.traffic import traffic


class Memory(NamedTuple):
    """Bytes on one device: arguments, results that are not written over arguments, and what is there in between."""

    arguments: int
    results: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Cost(NamedTuple):
    """Of one call on one device, and the seconds that it took to find out."""

    memory: Memory
    work: Work
    lowering: float
    compiling: float


def of(jitted, *arguments, devices: int, through_memory: bool = False) -> Cost:
    """The cost of a jitted function of abstract arguments (`jax.ShapeDtypeStruct` with shardings) on `devices`.

    Args:
        through_memory: whether to count what moves through memory, for a rate that is of products alone.
    """
    began = time.perf_counter()
    lowered = jitted.lower(*arguments)
    lowering = time.perf_counter() - began
    compiled = lowered.compile()
    compiling = time.perf_counter() - began - lowering
    text, found = compiled.as_text(), compiled.memory_analysis()
    memory = Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )
    moved = traffic(text) if through_memory else 0.0
    work = Work(devices, tuple(hlo.products(text)), tuple(hlo.transfers(text)), moved)
    return Cost(memory, work, lowering, compiling)


def shard_bytes(tree: Any) -> int:
    """Bytes of the arrays of a tree on one device, by their shardings; without one an array is there as a whole."""
    return sum(_shard(leaf) for leaf in jax.tree.leaves(tree))


def _shard(leaf) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return math.prod(shape) * (8 if is_key else leaf.dtype.itemsize)
