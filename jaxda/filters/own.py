"""A filter of your own: any function (key, ensemble, observation) -> ensemble, which Python code gives.

Configurations hold values and never name code. So a row of this kind has the settings that every filter has, its size,
what forecasts its members, its truth, and `jaxda.compare.run` the function.
"""

from __future__ import annotations

from typing import Literal

from jaxda.settings import FilterSettings, described, settings


@settings
class OwnConfig(FilterSettings):
    """Settings of a filter whose function is given to `jaxda.compare.run`."""

    kind: Literal["own"] = described("own", "filter: a function that Python code gives, which scripts cannot")


def make_analysis():
    """Nothing: a configuration has no function.

    Raises:
        ValueError: always.
    """
    raise ValueError('kind = "own" is a function, which only Python code gives (jaxda.compare.run); use another kind')
