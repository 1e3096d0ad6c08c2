"""Runs that are timed in turn, so that what else the machine does falls on all of them; ports for their processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax


class Run(NamedTuple):
    """Something to time: a call, the units of what is reported that it makes, and what is known of it.

    Attributes:
        call: without arguments; its result is waited for.
        units: of what is reported, that one call makes [1].
        work: of one call, by a convention of its own [FLOP, or B of a copy]; None where there is none.
        program: compiled, of which one call is a run; None where there is none to count.
    """

    call: Callable
    units: float = 1.0
    work: float | None = None
    program: Any = None


def compiled(function: Callable, *arguments, units: float = 1.0) -> Run:
    """The run of a function, jitted or not, on arguments, compiled here and once."""
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    program = jitted.lower(*arguments).compile()
    return Run(partial(program, *arguments), units, program=program)


def timed(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Seconds a unit of each run, in turn, `repeats` times after one warm-up."""
    seconds = {name: [] for name in runs}
    for count in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run.call())
            if count:
                seconds[name].append((time.perf_counter() - began) / run.units)
    return seconds


def free_port() -> int:
    """A port of this machine at which processes can find each other."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
