"""Runs that are timed in turn, so that what else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax


class Run(NamedTuple):
    """Something to time: a call, the units of what is reported that it makes, and its work [FLOP] where known."""

    call: Callable
    units: float = 1.0
    work: float | None = None


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
