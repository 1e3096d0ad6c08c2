"""A benchmark put together: the program, its peers and its ceilings timed in turn, and what that says."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxda.benchmarks import ceilings
from jaxda.benchmarks.catalogue import BENCHMARKS, VIT, Sizes
from jaxda.benchmarks.ceilings import Share
from jaxda.benchmarks.counting import Counts, counted
from jaxda.benchmarks.timing import Run, timed


class Measured(NamedTuple):
    """What was measured of one benchmark.

    Attributes:
        seconds: code ("jaxda", "peer") -> of each timed run, a unit.
        units: that one call makes [1].
        counts: of one call; None where there is no program to count.
        rates: of the ceilings [B/s, FLOP/s]; without counts none.
        work: FLOP of one call by the convention of the field; None where there is none.
        dtype: of the product and the FFT among the ceilings.
    """

    seconds: dict[str, list[float]]
    units: float
    counts: Counts | None
    rates: dict[str, float]
    work: float | None
    dtype: str = "float32"

    @property
    def medians(self) -> dict[str, float]:
        """Seconds a unit of each code."""
        return {code: statistics.median(some) for code, some in self.seconds.items()}

    @property
    def share(self) -> Share | None:
        """How near the nearest ceiling is."""
        call = self.medians["jaxda"] * self.units
        return ceilings.share_of(self.counts, call, self.rates) if self.counts else None

    def plain(self) -> dict:
        """All of it as dictionaries, lists and numbers."""
        counts = self.counts._asdict() if self.counts else None
        share = self.share._asdict() if self.counts else None
        return self._asdict() | {"medians": self.medians, "counts": counts, "share": share}


def measure(
    name: str, sizes: Sizes, repeats: int, peers: Mapping[str, Callable[[Sizes], Run]] | None = None
) -> Measured:
    """Time a benchmark beside its peers and ceilings."""
    benchmark = BENCHMARKS[name]
    ours = benchmark.make(sizes)
    codes = {"jaxda": ours}
    if peers and name in peers:
        codes["peer"] = peers[name](sizes)
    counts = counted(ours.program) if ours.program is not None else None
    dtype = str(sizes.vit.dtype or sizes.dtype) if name in VIT else sizes.dtype
    tops = ceilings.runs(counts, dtype) if counts else {}
    seconds = timed(codes | tops, repeats)
    own = {code: seconds[code] for code in codes}
    return Measured(own, ours.units, counts, ceilings.rates_of(tops, seconds), ours.work, dtype)


def with_best(found: Mapping[str, Measured]) -> dict[str, Measured]:
    """The same, with products and FFTs at the best rate of all that were timed alike: a ceiling is what was reached.

    Copies are of different sizes and stay.
    """
    alike = lambda one: (one.counts.devices, one.dtype) if one.counts else None
    best: dict[tuple, float] = {}
    for one in found.values():
        for name, rate in one.rates.items():
            best[alike(one), name] = max(rate, best.get((alike(one), name), 0.0))
    raised = lambda one: {name: rate if name == "copy" else best[alike(one), name] for name, rate in one.rates.items()}
    return {name: one._replace(rates=raised(one)) for name, one in found.items()}
