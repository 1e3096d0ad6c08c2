"""Parameters of a model that change with time, as settings: piecewise lines and seasons."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from jaxda.settings import Positive, described, settings

#: the unit is that of the parameter which changes
Numbers = Annotated[tuple[float, ...], Field(min_length=1)]


@settings
class LineConfig:
    """Straight lines between points in time, constant before the first and after the last."""

    kind: Literal["line"] = described("line", "straight lines between days, constant before and after")
    days: Numbers = Field(description="in order, from the first cycle on; one given twice is a switch there [day]")
    values: Numbers = Field(description="at these days [unit of the parameter]")

    def __post_init__(self):
        if len(self.days) != len(self.values):
            raise ValueError(f"{len(self.days)} days for {len(self.values)} values; give one for one")
        for before, after in pairwise(self.days):
            if after < before:
                raise ValueError(f"days: {after:g} comes after {before:g}; give them in order")

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values), max(self.values)

    def at(self, days) -> np.ndarray:
        """Values at days `(...)`; at a switch those after it."""
        return np.interp(days, self.days, self.values)  # of equal days the last counts, from there on


@settings
class SeasonConfig:
    """A sine: mean + amplitude sin(2 pi (day / period_days + phase))."""

    kind: Literal["season"] = described("season", "a sine around a mean")
    mean: float = Field(description="around which the parameter swings [unit of the parameter]")
    amplitude: float = Field(description="largest difference from it [unit of the parameter]")
    period_days: Positive = Field(description="time from one maximum to the next [day]")
    phase: float = described(0.0, "part of a period that is over at the first cycle; 0: the mean, rising [1]")

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return self.mean - abs(self.amplitude), self.mean + abs(self.amplitude)

    def at(self, days) -> np.ndarray:
        """Values at days `(...)`."""
        turns = np.asarray(days, float) / self.period_days + self.phase
        return self.mean + self.amplitude * np.sin(2.0 * np.pi * turns)


Change = Annotated[LineConfig | SeasonConfig, Field(discriminator="kind")]
