"""Cost against a size: the same benchmarks at several, and the power of it that they go with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from jaxda.benchmarks.catalogue import BENCHMARKS, Sizes
from jaxda.benchmarks.timing import timed

#: sizes that can be swept, and what their cost is shown against
AXES = {"N": "grid points of both boundaries, 2 N² [1]", "members": "members [1]", "d": "variables [1]"}


def sweep(names: Sequence[str], sizes: Sizes, size: str, values: Sequence[int], repeats: int) -> dict[str, dict]:
    """Benchmark -> value of a size -> seconds of each timed run, a unit; one size after the other."""
    found: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    for value in values:
        some = sizes.of(size, value)
        runs = {name: BENCHMARKS[name].make(some) for name in names}
        for name, seconds in timed(runs, repeats).items():
            found[name][value] = seconds
    return found


def cost_of(size: str, value: int) -> float:
    """What cost is fitted against: of N the points of both boundaries, 2 N^2, else the size itself."""
    return 2.0 * value**2 if size == "N" else float(value)


def exponent(size: str, seconds: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Exponent p and factor c of time = c x^p, by least squares of the logarithms of the medians.

    x is as in `cost_of`; the factor is in s.
    """
    x = np.log([cost_of(size, value) for value in seconds])
    p, logarithm = np.polyfit(x, np.log([statistics.median(some) for some in seconds.values()]), 1)
    return float(p), float(np.exp(logarithm))
