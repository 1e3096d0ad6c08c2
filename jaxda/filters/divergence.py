"""A filter that loses the truth: how it is noticed from the innovations, and brought back.

Of a forecast that is what its ensemble says, the innovations d = y - mean h have E[d d^T] = H P H^T + R (Desroziers et
al. 2005, Q. J. R. Meteorol. Soc. 131, 3385-3396, eq. 1), so that each observation by itself has E[d_j^2] = s_j^2 +
sigma_j^2, with s_j^2 the variance of the members' h. What is watched is the mean over the p observations used,

    chi^2 = (1/p) sum_j d_j^2 / (s_j^2 + sigma_j^2),

of expectation 1 for such a forecast, however its errors go together from point to point: that changes how much chi^2
scatters, not its mean. It is the diagonal part of the usual test d^T (H P H^T + R)^-1 d / p (Menard & Chang 2000, Mon.
Wea. Rev. 128, 2672-2686), which no ensemble of few members can say. A filter that diverges is sure of itself and
wrong: chi^2 goes to RMSE^2 / sigma^2. It needs no truth; in a twin experiment the error of the forecast is watched
too.

A cycle is suspect where either is over its limit (`FaultsConfig`); cycles without observations say nothing. From the
`patience`-th of them in a row on the filter is flagged, and as long as it is, a recovery takes the place of the
analysis:

inflate: the forecast's deviations times sqrt(lambda), then the analysis. lambda is what the innovations ask for
    (Li, Kalnay & Miyoshi 2009, Q. J. R. Meteorol. Soc. 135, 523-533: traces of Desroziers' equation, here of R^-1
    times it),

        lambda = sum_j (d_j^2 / sigma_j^2 - 1) / sum_j s_j^2 / sigma_j^2,

    not below 1, nor so large that the mean variance is over the climate's.
recentre: the forecast's deviations around the estimate that forgets it, optimal interpolation of the observations into
    the climate (`baselines.make_climatology`): the observations where there are precise ones, the climate where there
    are none. They are scaled to the error of that estimate, so that the next forecast is neither sure nor lost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxda.filters.baselines import Climate, make_climatology
from jaxda.filters.faults import FaultsConfig, Mend
from jaxda.filters.inflation import deviations, rescaled
from jaxda.observations import Observation, Operator, given

Analysis = Callable[[Array, Array, Observation], Array]


class Watched(NamedTuple):
    """chi^2 of a cycle, whether its filter is flagged, and how many suspect cycles there are in a row by now."""

    chi_square: Array
    flagged: Array
    suspect: Array


class Guard(NamedTuple):
    """What looks after a filter in each cycle.

    Attributes:
        mend: draws members anew that are not finite.
        watch: (suspect cycles before, forecast, observation used, RMSE of the forecast or 0) -> Watched.
        rescue: the analysis of a flagged cycle; None: the usual one.
    """

    mend: Mend
    watch: Callable[[Array, Array, Observation, Array | float], Watched]
    rescue: Analysis | None = None


#: of a cycle that nothing looks after
UNGUARDED = Guard(lambda key, ensemble: (ensemble, 0, 0), lambda suspect, *_: Watched(math.nan, False, suspect))


def innovations(operator: Operator, ensemble: Array, observation: Observation) -> tuple[Array, Array, Array]:
    """d, s^2 and precision of each observation, `(*values_shape)`, all zero where there is none."""
    h, seen = operator(ensemble), given(observation)
    parts = (observation.values - h.mean(0), jnp.var(h, axis=0, ddof=1), observation.precision)
    return tuple(jnp.where(seen, part, 0.0) for part in parts)


def chi_square(operator: Operator, ensemble: Array, observation: Observation) -> Array:
    """chi^2 of the module's docstring, for a forecast `(M, *shape)`; NaN where nothing is observed."""
    d, variance, precision = innovations(operator, ensemble, observation)
    seen = precision > 0
    expected = variance + 1.0 / jnp.where(seen, precision, 1.0)
    return jnp.sum(d**2 / expected) / seen.sum()


def make_watch(config: FaultsConfig, operator: Operator, climate_error: float = math.inf) -> Callable[..., Watched]:
    """`Guard.watch`; `climate_error` is the climate's standard deviation, in the unit of the RMSE."""
    worst = config.rmse_limit * climate_error

    def watch(suspect, ensemble, used, rmse=0.0):
        chi = chi_square(operator, ensemble, used)
        wrong = (chi > config.chi_square_limit) | (rmse > worst)
        suspect = jnp.where(wrong, suspect + 1, jnp.where(jnp.isnan(chi), suspect, 0))
        return Watched(chi, suspect >= config.patience, suspect)

    return watch


def inflated(operator: Operator, climate: Climate, ensemble: Array, observation: Observation) -> Array:
    """The forecast with the spread that its innovations ask for."""
    d, variance, precision = innovations(operator, ensemble, observation)
    asked, there = jnp.sum(precision * d**2 - (precision > 0)), jnp.sum(precision * variance)
    own = jnp.mean(jnp.var(ensemble, axis=0, ddof=1))
    most = climate.variance.mean() / jnp.where(own > 0, own, 1.0)
    factor = jnp.maximum(jnp.minimum(asked / jnp.where(there > 0, there, 1.0), most), 1.0)
    return rescaled(ensemble, jnp.sqrt(factor).astype(ensemble.dtype))


def make_rescue(config: FaultsConfig, operator: Operator, climate: Climate, analysis: Analysis) -> Analysis | None:
    """The analysis of a flagged cycle, in place of the usual `analysis`; None where there is no recovery."""
    estimate = make_climatology(operator, climate)

    def inflate(key, ensemble, observation):
        return analysis(key, inflated(operator, climate, ensemble, observation), observation)

    def recentre(key, ensemble, observation):
        centre, error = deviations(estimate(key, ensemble, observation))
        own = deviations(ensemble)[1]
        size, rounding = jnp.mean(own**2), 10.0 * jnp.finfo(ensemble.dtype).eps
        alive = size > rounding**2 * jnp.mean(ensemble**2)  # members that all agree have no directions
        return centre + jnp.where(alive, own * jnp.sqrt(jnp.mean(error**2) / jnp.where(alive, size, 1.0)), error)

    return {"none": None, "inflate": inflate, "recentre": recentre}[config.recovery]


def make_guard(
    config: FaultsConfig,
    mend: Mend,
    operator: Operator,
    climate: Climate,
    analysis: Analysis,
    *,
    watched: bool = True,
    scale: float = 1.0,
) -> Guard:
    """What looks after a filter with this analysis.

    Args:
        watched: whether it is one that can lose the truth; else chi^2 is computed alone.
        scale: of RMSE in units of the state.
    """
    if not watched:
        config = dataclasses.replace(config, chi_square_limit=math.inf, rmse_limit=math.inf, recovery="none")
    climate_error = scale * float(jnp.sqrt(climate.variance.mean()))
    watch = make_watch(config, operator, climate_error)
    return Guard(mend, watch, make_rescue(config, operator, climate, analysis))
