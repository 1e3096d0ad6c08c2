"""The twin experiment: truth -> observe -> screen -> analysis(forecast ensemble) -> scores -> forecast -> next.

Keys: cycle k uses fold_in(key, k), and from it one key each for observing, analysis, forecast and learning. So a run
cut in pieces gives the numbers of the whole, and all filters given one key see the same observations.

`cycle` takes a forecast that stays what it is. In `coupled_cycle` what the forecasts are made with, a model, is
carried along: it may depend on the number of the cycle, and learn from each analysis. A `Guard` looks after both:
members that are not finite are drawn anew, a filter that loses the truth is noticed and may be brought back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from jaxda import diagnostics
from jaxda.filters.divergence import UNGUARDED, Guard, Watched
from jaxda.filters.inflation import spread
from jaxda.observations import Observation, given
from jaxda.settings import Fraction, Positive, described, settings
from jaxda.shown import in_brief

Forecast = Callable[[Array, Array], Array]
#: (key, number of the cycle, model, ensemble) -> the forecast, and how many members had to be replaced in it
ModelForecast = Callable[[Array, Array, Any, Array], tuple[Array, Array]]
#: (key, number of the cycle, model, forecast, analysis, observation used) -> the model to go on with, and a record
Learn = Callable[[Array, Array, Any, Array, Array, Observation], tuple[Any, Any]]
Analysis = Callable[[Array, Array, Observation], Array]
Observe = Callable[[Array, Array], Observation]
Screen = Callable[[Array, Observation], Observation]


#: bins of the spread, ten for each power of ten [unit of the scores]
SPREADS = np.geomspace(1e-3, 1e3, 61)
#: the interval whose coverage is a score [1]
LEVEL = 0.9


class Scores(NamedTuple):
    """Scores of each cycle, `(T,)`, in the unit of the states times the scale: forecast (b) and analysis (a).

    `rmse` and `bias` of the ensemble mean, `spread` and fair `crps` as in `jaxda.diagnostics`; `coverage` is the part
    of the points whose truth is in the members' central 90 % interval [1]; `rejected` counts observations, `replaced`
    the members that the analysis, or the forecast after it, could not be used of, `lost` those that are not finite and
    could not be replaced. `chi_square` of the innovations is that of `jaxda.filters.divergence`, NaN without
    observations, and `flagged` is 1 where the filter is diverging.
    """

    rmse_b: Array
    rmse_a: Array
    spread_b: Array
    spread_a: Array
    crps_a: Array
    rejected: Array
    replaced: Array
    bias_a: Array
    coverage_a: Array
    lost: Array
    chi_square: Array
    flagged: Array

    __repr__ = in_brief

    @property
    def finite(self) -> np.ndarray:
        """Whether each cycle `(T,)` has errors that are numbers, and ended with members that are."""
        errors = (self.rmse_b, self.rmse_a, self.spread_b, self.spread_a, self.crps_a)
        return np.isfinite(np.stack(errors)).all(0) & (np.asarray(self.lost) == 0)


class Detail(NamedTuple):
    """What the points of each analysis say about its ensemble, as sums that add up over cycles.

    Attributes:
        ranks: points of each rank of the truth, `(T, M + 1)` whole numbers.
        skill: `diagnostics.SpreadSkill` of the bins between `SPREADS`, `(T, B)` each.
        spectra: of truth, mean, error and spread (`diagnostics.parts_of`), `(T, 4, ...)`; None without a function.
    """

    ranks: Array
    skill: diagnostics.SpreadSkill
    spectra: Array | None

    __repr__ = in_brief


class Fields(NamedTuple):
    """Analyses of each cycle: mean and spread `(T, *shape)`, members `(T, M, *shape)` or None, and their detail."""

    mean: Array
    spread: Array
    members: Array | None
    detail: Detail

    __repr__ = in_brief


class Keys(NamedTuple):
    """Of one cycle, each for one purpose."""

    observe: Array
    analysis: Array
    forecast: Array
    learn: Array
    ranks: Array
    faults: Array

    __repr__ = in_brief


def keys(key: Array, number: int | Array) -> Keys:
    """The keys of cycle `number` of an experiment's key.

    Examples:
        >>> keys(jax.random.key(0), 3)._fields
        ('observe', 'analysis', 'forecast', 'learn', 'ranks', 'faults')
    """
    own = jax.random.fold_in(key, number)
    return Keys(*jax.random.split(own, 3), *(jax.random.fold_in(own, part) for part in (3, 4, 5)))


class Coupled(NamedTuple):
    """What goes from cycle to cycle: the forecast `(M, *shape)`, what forecasts are made with, any arrays, and how many
    suspect cycles there were in a row, None where nobody watches.
    """

    ensemble: Array
    model: Any = None
    suspect: Array | None = None

    __repr__ = in_brief

    @property
    def parts(self) -> dict[str, Any]:
        """By name, as checkpoints hold them: without what is None."""
        return {name: part for name, part in self._asdict().items() if part is not None}

    @classmethod
    def of(cls, parts: dict[str, Any]) -> Coupled:
        """What these `parts` are of."""
        return cls(**parts)


def analyse(
    own: Keys,
    ensemble: Array,
    suspect: Array | None,
    used: Observation,
    rmse: Array | float,
    analysis: Analysis,
    guard: Guard,
) -> tuple[Array, Watched, Array, Array]:
    """One guarded analysis of a forecast `(M, *shape)` whose error is `rmse`, 0 where nobody knows it.

    Returns:
        The analysis; what the innovations said before it; members that were drawn anew, and that could not be.
    """
    watched = guard.watch(suspect, ensemble, used, rmse)
    if guard.rescue is None:
        posterior = analysis(own.analysis, ensemble, used)
    else:
        posterior = jax.lax.cond(watched.flagged, guard.rescue, analysis, own.analysis, ensemble, used)
    posterior, redrawn, lost = guard.mend(jax.random.fold_in(own.faults, 0), posterior)
    return posterior, watched, redrawn, lost


def predict(
    own: Keys, number: Array, model: Any, posterior: Array, forecast: ModelForecast, guard: Guard
) -> tuple[Array, Array, Array]:
    """One guarded forecast of an analysis `(M, *shape)`; members that were replaced in it, and that could not be."""
    after, replaced = forecast(own.forecast, number, model, posterior)
    after, redrawn, lost = guard.mend(jax.random.fold_in(own.faults, 1), after)
    return after, replaced + redrawn, lost


def coupled_cycle(
    key: Array,
    coupled: Coupled,
    truth: Array,
    *,
    forecast: ModelForecast,
    observe: Observe,
    analysis: Analysis,
    screen: Screen | None = None,
    learn: Learn | None = None,
    spectra: Callable[[Array], Array] | None = None,
    guard: Guard = UNGUARDED,
    first: int | Array = 0,
    scale: float = 1.0,
    keep_members: bool = False,
) -> tuple[Coupled, tuple[Scores, Fields, Any]]:
    """Assimilate observations of a series of true states, one `lax.scan` over the cycles.

    Args:
        coupled: forecast for the first true state, and the model.
        truth: `(T, *shape)`.
        screen: (forecast, observation) -> the observation that the analysis gets, `observations.screened` for instance;
            None: as it is.
        learn: what the model makes of each analysis before it forecasts; None: nothing.
        spectra: of a state, such as `diagnostics.make_spectra`; None: none are kept.
        guard: what looks after members and filter; left out: nobody.
        first: number of the first cycle, for the keys.
        scale: of the scores, for instance K for each m/s of PV.

    Returns:
        Forecast and model for the cycle after the last; the series of scores, fields and records of learning.
    """

    def one(coupled, item):
        ensemble, model, suspect = coupled
        number, state = item
        own = keys(key, number)
        observation = observe(own.observe, state)
        used = observation if screen is None else screen(ensemble, observation)
        rmse_b = scale * diagnostics.rmse(ensemble.mean(0), state)
        posterior, watched, redrawn, gone = analyse(own, ensemble, suspect, used, rmse_b, analysis, guard)
        record = None
        if learn is not None:
            model, record = learn(own.learn, number, model, ensemble, posterior, used)
        after, replaced, lost = predict(own, number, model, posterior, forecast, guard)
        mean, deviation = posterior.mean(0), spread(posterior)
        ranks = diagnostics.rank_counts(diagnostics.ranks(own.ranks, posterior, state), len(posterior))
        scores = Scores(
            rmse_b=rmse_b,
            rmse_a=scale * diagnostics.rmse(mean, state),
            spread_b=scale * diagnostics.mean_spread(ensemble),
            spread_a=scale * diagnostics.mean_spread(posterior),
            crps_a=scale * diagnostics.crps(posterior, state),
            rejected=jnp.sum(given(observation)) - jnp.sum(given(used)),
            replaced=jnp.asarray(redrawn + replaced),
            bias_a=scale * diagnostics.bias(mean, state),
            coverage_a=diagnostics.coverage(ranks, LEVEL).astype(state.dtype),
            lost=jnp.maximum(gone, lost),
            chi_square=jnp.asarray(watched.chi_square, rmse_b.dtype),
            flagged=jnp.asarray(watched.flagged, int),
        )
        skill = diagnostics.spread_skill(scale * deviation, scale * (mean - state), jnp.asarray(SPREADS, state.dtype))
        detail = Detail(ranks, skill, diagnostics.parts_of(spectra, posterior, state) if spectra else None)
        fields = Fields(mean, deviation, posterior if keep_members else None, detail)
        return Coupled(after, model, watched.suspect), (scores, fields, record)

    return jax.lax.scan(one, coupled, (first + jnp.arange(len(truth)), truth))


def cycle(key: Array, ensemble: Array, truth: Array, *, forecast: Forecast, **rest) -> tuple[Array, tuple]:
    """`coupled_cycle` with a forecast (key, ensemble) -> ensemble that stays what it is.

    Returns:
        The forecast for the cycle after the last; the series of scores and fields.

    Examples:
        >>> from jaxda import observations
        >>> from jaxda.models import lorenz96
        >>> advance = lorenz96.make_advance(lorenz96.Lorenz96Config(dim=8), 1)
        >>> network = observations.ObservationConfig(operator="identity")
        >>> operator = observations.make_operator(network, (8,))
        >>> ensemble, (scores, fields) = cycle(
        ...     jax.random.key(0),
        ...     jax.random.normal(jax.random.key(1), (5, 8)),
        ...     jnp.full((4, 8), 8.0),  # a truth at rest
        ...     forecast=lambda key, members: advance(members),
        ...     observe=observations.make_network(network, operator),
        ...     analysis=lambda key, members, observation: members,
        ... )
        >>> ensemble.shape, scores.rmse_a.shape, fields.mean.shape
        ((5, 8), (4,), (4, 8))
    """
    plain = lambda key, number, model, ensemble: (forecast(key, ensemble), 0)
    start = Coupled(ensemble, suspect=jnp.zeros((), jnp.int32))
    coupled, (scores, fields, _) = coupled_cycle(key, start, truth, forecast=plain, **rest)
    return coupled.ensemble, (scores, fields)


@settings
class ShockConfig:
    """Model error as sudden noise in the truth: white in space, at random cycles (never the first)."""

    kind: Literal["none", "transient", "persistent"] = described(
        "none", "none; in the truth of one cycle alone, as published; or kept by the truth and carried on"
    )
    sizes: tuple[Positive, ...] = described(
        (1500.0, 1200.0, 900.0, 600.0), "standard deviations of the noise [unit of the state: m/s for SQG]"
    )
    probabilities: tuple[Fraction, ...] = described(
        (0.05, 0.10, 0.15, 0.20), "probability of each size at a cycle; none with the rest [1]"
    )

    def __post_init__(self):
        if len(self.sizes) != len(self.probabilities):
            raise ValueError(f"{len(self.sizes)} sizes for {len(self.probabilities)} probabilities; give one for one")
        if sum(self.probabilities) > 1:
            raise ValueError(f"probabilities add up to {sum(self.probabilities):g}; they must not exceed 1")


def shock(key: Array, config: ShockConfig, shape: tuple[int, ...], number: Array, dtype) -> Array:
    """The noise `(*shape)` that cycle `number` adds to the truth: zero at most cycles and at the first."""
    key_size, key_noise = jax.random.split(jax.random.fold_in(key, number))
    limits = jnp.cumsum(jnp.asarray(config.probabilities))
    sizes = jnp.asarray((*config.sizes, 0.0), dtype)
    size = sizes[jnp.searchsorted(limits, jax.random.uniform(key_size), side="right")]
    return jnp.where(number > 0, size, 0.0) * jax.random.normal(key_noise, shape, dtype)


def shocked(key: Array, config: ShockConfig, truth: Array) -> Array:
    """A series of true states `(T, *shape)` with transient shocks: each only in the state of its own cycle."""
    noise = lambda number: shock(key, config, truth.shape[1:], number, truth.dtype)
    return jax.lax.map(lambda item: item[0] + noise(item[1]), (truth, jnp.arange(len(truth))))


def truth_run(
    key: Array, config: ShockConfig, advance: Callable[[Array, Array], Array], start: Array, cycles: int
) -> Array:
    """True states `(cycles, *shape)`, one interval apart from `start` on, each with the shocks until then.

    `advance` takes the number of a cycle and its state to the state of the next.
    """

    def one(state, number):
        after = advance(number, state)
        if config.kind == "persistent":
            after = after + shock(key, config, start.shape, number + 1, start.dtype)
        return after, state

    return jax.lax.scan(one, start, jnp.arange(cycles))[1]


@settings
class InitialConfig:
    """The ensemble before the first analysis."""

    kind: Literal["truth-plus-noise", "climatology", "noise"] = described(
        "truth-plus-noise", "the first truth plus white noise, states of the climate at other times, or noise around 0"
    )
    noise: Annotated[float, Field(ge=0)] = described(
        1000.0, "standard deviation of the white noise [unit of the state: m/s for SQG]"
    )


def initial_ensemble(key: Array, config: InitialConfig, members: int, truth: Array, climate_states: Array) -> Array:
    """Members `(M, *shape)` around the first true state or zero, or among climate states `(T, *shape)`, T >= M."""
    if config.kind == "climatology":
        return climate_states[jax.random.choice(key, len(climate_states), (members,), replace=False)]
    centre = truth if config.kind == "truth-plus-noise" else jnp.zeros_like(truth)
    return centre + config.noise * jax.random.normal(key, (members, *truth.shape), truth.dtype)
