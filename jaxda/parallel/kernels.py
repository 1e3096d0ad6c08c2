"""Functions that the compiler leaves whole.

XLA fuses a chain of stencils into one loop whose every point computes anew all that it depends on: with ten Runge-Kutta
steps exponentially much. A cut between the stages makes each of them one loop over arrays in the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata

#: of programs whose loops are arithmetic: on CPUs with AVX-512 half of their time; others have no such vectors
WIDE = {"xla_cpu_prefer_vector_width": 512}
#: kernels are not cut into tasks for the pool of threads, which would carry a window from one core's cache to another's
SERIAL = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}


def options(platform: str) -> dict[str, int | str]:
    """Compiler options for `jax.jit` of such programs on a platform."""
    return WIDE | SERIAL if platform == "cpu" else {}


def kernel(function: Callable, platform: str) -> Callable:
    """The function of arrays, and of whole numbers given by keyword, as a loop of its own.

    On CPUs optimization barriers are gone before loops are fused, but a call that may not be inlined stays. Elsewhere
    the barriers stay, and calls are what command buffers are made of.
    """
    if platform != "cpu":
        return lambda *arrays, **fixed: jax.lax.optimization_barrier(function(*arrays, **fixed))
    called = jax.jit(function, static_argnames=inspect.getfullargspec(function).kwonlyargs)

    def kept(*arrays, **fixed):
        return set_xla_metadata(called(*arrays, **fixed), inlineable="false")  # of the call, not of calls inside it

    return kept
