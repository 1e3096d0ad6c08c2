"""Who holds the members, and how they are summed over: the few functions that every statistic over ranks is made of.

A rank is a process of MPI, or a device inside of `jax.shard_map`. All ways of summing over them have one interface,
`Ranks`, and `jaxda.parallel.collectives` is written on it once:

    over_axis(name)   jax.lax collectives, inside of shard_map; CUDA, ROCm and CPU; differentiable
    over_mpi4jax()    MPI inside of jit
    over_mpi4py()     MPI on the host, between jitted functions; NumPy arrays
    alone()           one process, no communication
    choose()          the last three by name, or what fits how the program was started

What to know of MPI here:

* mpi4jax has no lowering for ROCm. On AMD GPUs take `over_axis` over the devices of `jax.distributed`, or
  `over_mpi4py`, which goes through the host's memory.
* Reverse mode through nested sums of mpi4jax gives wrong gradients without a word (a variance is one). So any
  derivative of a statistic over mpi4jax is refused here; take `over_axis`.
* mpi4jax works with one device a process. float16 and bfloat16 are not known to MPI.
* If one rank raises, the others wait for it forever. Start as `mpirun -n 4 python -m mpi4py script.py`: that brings
  all of them down, from the moment that MPI is started on, so choose the ranks early.
* Every rank has to call the same statistics in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.parallel import launch

CURE = 'pip install mpich && pip install --no-cache-dir -e ".[mpi]"'


class Ranks(NamedTuple):
    """What statistics over ranks are made of.

    Attributes:
        xp: `jax.numpy`, or `numpy` where sums go through the host.
        rank: () -> number of this rank, from 0; traced over an axis.
        size: () -> how many ranks.
        total: sum over all ranks of arrays of one shape, or of whole numbers; every rank gets it.
        largest: the same with the maximum; smallest: with the minimum.
    """

    xp: ModuleType
    rank: Callable[[], Any]
    size: Callable[[], int]
    total: Callable[[Any], Any]
    largest: Callable[[Array], Array]
    smallest: Callable[[Array], Array]


def alone() -> Ranks:
    """One rank that holds all members."""
    same = lambda x: x
    return Ranks(jnp, lambda: 0, lambda: 1, same, same, same)


def over_axis(name: str) -> Ranks:
    """The devices along the axis `name` of a mesh, for calls inside of `jax.shard_map`."""
    return Ranks(
        jnp,
        rank=lambda: jax.lax.axis_index(name),
        size=lambda: jax.lax.axis_size(name),
        total=lambda x: jax.lax.psum(x, name),
        largest=lambda x: jax.lax.pmax(x, name),
        smallest=lambda x: jax.lax.pmin(x, name),
    )


@jax.custom_jvp
def _not_differentiated(x: Array) -> Array:
    return x


@_not_differentiated.defjvp
def _refuse(primals, tangents):
    raise NotImplementedError(
        "derivatives of statistics over mpi4jax would be wrong; use collectives over_axis inside of jax.shard_map"
    )


def over_mpi4jax(comm=None) -> Ranks:
    """MPI inside of jit (Häfner & Vicentini 2021, J. Open Source Softw. 6(65), 3419).

    Args:
        comm: a communicator of mpi4py; all ranks where left out.

    Raises:
        ValueError: mpi4jax or an MPI library is missing, this device has no lowering, or the process has several
            devices.
    """
    MPI, mpi4jax = _imported("mpi4jax")
    if jax.default_backend() == "gpu" and ("rocm" in _platform() or not mpi4jax.has_cuda_support()):
        cure = 'use mpi = "mpi4py", or collectives over an axis of devices'
        raise ValueError(f'mpi = "mpi4jax": it was built without support of this GPU ({_platform()}); {cure}')
    if jax.local_device_count() != 1:
        cure = "set JAX_NUM_CPU_DEVICES=1, or bind one GPU to each rank"
        raise ValueError(f'mpi = "mpi4jax": {jax.local_device_count()} devices in one process, it takes one; {cure}')

    def over(op):
        return lambda x: mpi4jax.allreduce(_not_differentiated(jnp.asarray(x)), op=op, comm=comm)

    known = comm or MPI.COMM_WORLD
    return Ranks(jnp, known.Get_rank, known.Get_size, over(MPI.SUM), over(MPI.MAX), over(MPI.MIN))


def over_mpi4py(comm=None) -> Ranks:
    """MPI on the host: arrays come and go as NumPy's (Dalcin & Fang 2021, Comput. Sci. Eng. 23(4), 47-54).

    Args:
        comm: a communicator of mpi4py; all ranks where left out.

    Raises:
        ValueError: mpi4py or an MPI library is missing.
    """
    (MPI,) = _imported("mpi4py")
    comm = comm or MPI.COMM_WORLD

    def over(op):
        def reduce(x):
            if isinstance(x, int):
                return comm.allreduce(x, op=op)
            own = np.ascontiguousarray(x)
            whole = np.empty_like(own)
            comm.Allreduce(own, whole, op=op)
            return whole.reshape(np.shape(x))[()]

        return reduce

    return Ranks(np, comm.Get_rank, comm.Get_size, over(MPI.SUM), over(MPI.MAX), over(MPI.MIN))


KINDS = {"mpi4jax": over_mpi4jax, "mpi4py": over_mpi4py, "none": alone}


def available() -> dict[str, str]:
    """Why each way over processes cannot be used here, in one line; empty where it can. Starts MPI where it is."""
    reasons = {}
    for kind, make in KINDS.items():
        try:
            make()
            reasons[kind] = ""
        except ValueError as error:
            reasons[kind] = str(error)
    return reasons


def choose(mpi: str = "auto") -> Ranks:
    """The ranks of this program.

    Args:
        mpi: "mpi4jax", "mpi4py", "none" (every process by itself), or "auto": none for a single process, else
            mpi4jax, else mpi4py.

    Raises:
        ValueError: what is asked for is not there, or "auto" finds several processes and no MPI.
    """
    if mpi != "auto" and mpi not in KINDS:
        raise ValueError(f'mpi = "{mpi}": is none of auto, {", ".join(KINDS)}; use one of them')
    if mpi != "auto":
        return KINDS[mpi]()
    size = launch.detect().size
    if size == 1:
        return alone()
    reasons = available()
    for kind, why in reasons.items():
        if kind != "none" and not why:
            return KINDS[kind]()
    raise ValueError(f"{size} processes were launched, but {reasons['mpi4py']}")


def jitted(ranks: Ranks, function: Callable) -> Callable:
    """A function that takes statistics over these ranks, jitted; as it stands where they go through the host."""
    return function if ranks.xp is np else jax.jit(function)


def _imported(kind: str) -> tuple[ModuleType, ...]:
    """MPI of mpi4py, and mpi4jax where it is the kind; imported late, since importing starts MPI.

    Raises:
        ValueError: with the cure.
    """
    try:
        from mpi4py import MPI

        if kind == "mpi4py":
            return (MPI,)
        import mpi4jax

        return MPI, mpi4jax
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI library, mpi4jax an old jax
        why = " ".join(str(error).split())
        raise ValueError(f'mpi = "{kind}": it cannot be loaded ({why}); run {CURE}') from error


def _platform() -> str:
    """What the default device's driver calls itself, in small letters: CUDA and ROCm are both "gpu" to JAX."""
    return jax.devices()[0].client.platform_version.splitlines()[0].lower()
