"""The benchmarks by name, and the sizes that their cost depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from jaxda.benchmarks import cycle, lorenz96, vit
from jaxda.benchmarks.timing import Run
from jaxda.models.vit import ViTConfig


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        N: grid points along each side, also of a transformer's images [1].
        members: ensemble size [1].
        d: variables of Lorenz-96 [1].
        dtype: floating-point type.
        integrator: of the EnSF.
        vit, batch: a transformer, which vit-train and vit-forecast need, and the samples of a training step [1].
    """

    N: int = 64
    members: int = 20
    d: int = 1_000_000
    dtype: str = "float32"
    integrator: str = "euler"
    vit: ViTConfig | None = None
    batch: int = 8

    def of(self, name: str, value: int) -> Sizes:
        """The same with another N, members or d."""
        network = dataclasses.replace(self.vit, image_size=value) if self.vit and name == "N" else self.vit
        return dataclasses.replace(self, vit=network, **{name: value})

    @property
    def case(self) -> cycle.Case:
        """The SQG ensemble of these sizes; made once."""
        return _case(self.N, self.members, self.dtype, self.integrator)


_case = lru_cache(maxsize=1)(cycle.Case)


class Benchmark(NamedTuple):
    """What makes a run, the sizes that its cost depends on, and whether it is of the SQG case."""

    make: Callable[[Sizes], Run]
    sizes: tuple[str, ...]
    of_case: bool = False


def _of_case(make: Callable[[cycle.Case], Run]) -> Benchmark:
    return Benchmark(lambda sizes: make(sizes.case), ("N", "members"), True)


BENCHMARKS = {
    **{name: _of_case(make) for name, make in cycle.CYCLE.items()},
    "lorenz96-cycle": Benchmark(lambda sizes: lorenz96.cycle(sizes.d), ("d",)),
    "vit-train": Benchmark(lambda sizes: vit.train_step(sizes.vit, sizes.batch), ("N",)),
    "vit-forecast": Benchmark(lambda sizes: vit.forecast(sizes.vit, sizes.members), ("N", "members")),
}
#: those that need a transformer
VIT = ("vit-train", "vit-forecast")
#: other names that are taken for these
ALIASES = {"local": "local-score"}
