"""What this machine can do, measured over processes: products, memory, all-reduces; as `parallel.machine.Machine`.

Each process is one device of `jax.distributed`; on CPUs they communicate by gloo.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxda.benchmarks import ceilings
from jaxda.benchmarks.timing import free_port
from jaxda.parallel.machine import Machine, Table, factor
from jaxda.settings import Count, described, settings

#: bytes of the all-reduces that are measured
SIZES = tuple(4.0 * 4**power for power in range(5, 13))


@settings
class MeasuringConfig:
    """In what the processes of a measurement must agree."""

    repeats: Count = described(7, "of each measurement, whose median counts [1]")


class Measured(NamedTuple):
    """Of each of so many processes: products [FLOP/s], memory [B/s], seconds of an all-reduce by its bytes."""

    processes: int
    rate: float
    memory_bandwidth: float
    all_reduce: dict[float, float]


def together(command: Sequence[str], processes: int, limit: float = 500.0) -> str:
    """Standard output of the first of several processes of one command, which find each other as torchrun's do.

    Raises:
        RuntimeError: one of them failed, or did not end within `limit` [s].
    """
    own = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # one device a process, whatever this one was told
    own |= {"JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": "", "JAXDA_LAUNCH": "torchrun" if processes > 1 else "single"}
    begun = []
    for rank in range(processes):
        environ = os.environ | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        begun.append(subprocess.Popen([sys.executable, *command], env=environ, text=True, **pipes))
    try:
        until = time.monotonic() + limit
        said = [one.communicate(timeout=max(until - time.monotonic(), 1.0)) for one in begun]
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command)}: {processes} processes did not end within {limit:g} s") from None
    finally:
        for one in begun:
            one.kill()
    for one, (_, error) in zip(begun, said, strict=True):
        if one.returncode:
            raise RuntimeError(f"{' '.join(command)}: a process ended with {one.returncode}: {error.strip()[-300:]}")
    return said[0][0]


def seconds_of(call: Callable, repeats: int) -> float:
    """Median time of a call after a warm-up, all processes beginning together."""
    found = []
    for count in range(repeats + 1):
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("begin")
        began = time.perf_counter()
        jax.block_until_ready(call())
        if count:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def sustained_products(side: int = 1024, seconds: float = 3.0) -> float:
    """Mean rate of products in single precision over some time [FLOP/s]: what processes leave each other."""
    product = jax.jit(lambda a, b: a @ b)
    a = jax.random.normal(jax.random.key(0), (side, side))
    jax.block_until_ready(product(a, a))
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        jax.block_until_ready(product(a, a))
        count += 1
    return 2.0 * side**3 * count / (time.perf_counter() - began)


def measure(repeats: int = 7, sizes: Sequence[float] = SIZES) -> Measured:
    """What each of the processes that run this does, all at once; the slowest one's numbers are not waited for."""
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("x",), axis_types=(AxisType.Auto,), devices=devices)
    along = PartitionSpec("x")
    if len(devices) > 1:
        multihost_utils.sync_global_devices("products")
    rate = sustained_products()
    over = ceilings.copy(2**27)
    memory = over.work / seconds_of(over.call, repeats)
    summed = jax.jit(
        jax.shard_map(lambda a: jax.lax.psum(a, "x"), mesh=mesh, in_specs=along, out_specs=PartitionSpec())
    )
    times = {}
    for size in sizes if len(devices) > 1 else ():
        count = int(size / 4)
        own = np.ones(count, np.float32)
        whole = jax.make_array_from_process_local_data(NamedSharding(mesh, along), own, (count * len(devices),))
        times[size] = seconds_of(lambda whole=whole: summed(whole), repeats)
    return Measured(len(devices), rate, memory, times)


def as_machine(found: Sequence[Measured], memory: float, reading: float, title: str) -> Machine:
    """The machine that measurements with growing numbers of processes describe.

    The peak is the largest rate of products that a device reached: a CPU's vendor states none.
    """
    tables = [
        Table(
            devices=one.processes,
            sizes=list(one.all_reduce),
            bus_bandwidths=[factor("all-reduce", one.processes) * s / t for s, t in one.all_reduce.items()],
        )
        for one in found
        if one.processes > 1
    ]
    return Machine(
        title=title,
        peak=max(one.rate for one in found),
        rates=[(one.processes, one.rate) for one in found],
        memory=memory,
        memory_bandwidth=found[-1].memory_bandwidth,
        node=max(one.processes for one in found),
        reading=reading,
        all_reduce=tables,
    )


def as_text(found: Measured) -> str:
    """One line that `from_text` reads."""
    return json.dumps(found._asdict())


def from_text(text: str) -> Measured:
    """What `as_text` wrote, in the last line of an output."""
    tree = json.loads(text.strip().splitlines()[-1])
    return Measured(**tree | {"all_reduce": {float(size): time for size, time in tree["all_reduce"].items()}})
