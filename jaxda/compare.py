"""Filters beside each other, yours among them, in Python: the same truth, the same observations, one score table.

`run` takes an experiment, as `scripts/osse.py` does, and functions (key, ensemble, observation) -> ensemble beside
its filters. `cycled` takes arrays and functions alone: your own model, operator and filters.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax import Array

from jaxda import experiment, twin
from jaxda.config import ExperimentConfig
from jaxda.experiment import Record, World
from jaxda.filters.baselines import FreeRunConfig
from jaxda.filters.own import OwnConfig
from jaxda.observations import Observation
from jaxda.output import report
from jaxda.output.progress import bar

Analysis = Callable[[Array, Array, Observation], Array]


@dataclass(frozen=True, repr=False)
class Comparison:
    """What each filter did; shows itself as the score table.

    Attributes:
        title, unit: of the table.
        records: name -> the filter's `experiment.Record`: scores by cycle `(T,)`, status, seconds.
    """

    title: str
    unit: str
    records: dict[str, Record]

    def __repr__(self) -> str:
        return report.text_of(report.score_table(self.title, self.records, self.unit))


def run(
    config: ExperimentConfig,
    filters: Mapping[str, Analysis] | None = None,
    world: World | None = None,
) -> Comparison:
    """All filters of an experiment, then yours, on one truth and the same observations; a bar shows how far it is.

    Args:
        filters: name -> function (key, ensemble `(M, *shape)`, Observation) -> ensemble, pure JAX. The experiment may
            have settings for it (`OwnConfig(members=40)` under its name); else it has the experiment's.
        world: of `experiment.make_world(config)`, if it is there already; its operator is what a filter compares its
            members with the observations by.

    Raises:
        ValueError: a name that another kind of filter has, or an own one without a function; a function that does not
            return an ensemble of the shape and type that it was given.

    Examples:
        >>> from jaxda import config
        >>> short = {"cycles": 30, "nature.climate_days": 100.0}
        >>> lorenz = config.read("configs/lorenz96_sakov2008.toml", short)
        >>> found = run(lorenz, {"mine": lambda key, ensemble, observation: 0.5 * (ensemble + observation.values)})
        >>> list(found.records)
        ['free-run', 'observations', 'climatology', 'ETKF-24', 'LETKF-7', 'mine']
        >>> found.records["mine"].mean("rmse_a") < found.records["free-run"].mean("rmse_a")
        True
    """
    filters = dict(filters or {})
    for name in filters:
        if not isinstance(config.filters.get(name, OwnConfig()), OwnConfig):
            raise ValueError(f"filters.{name}: the experiment has that already; give your filter another name")
    built_in = {name: own for name, own in config.filters.items() if name not in filters}
    world = world or experiment.make_world(dataclasses.replace(config, filters=built_in or {"none": FreeRunConfig()}))
    config = dataclasses.replace(config, filters={name: OwnConfig() for name in filters} | config.filters)
    analyses = {name: experiment.make_filter(config, name, world.operator, world.climate) for name in built_in}
    for name, analysis in filters.items():
        ensemble = world.first_ensemble(config.members_of(name))
        require_ensemble(f"filters.{name}", analysis, ensemble, world.observe(world.key, world.truth[0]))
    analyses, records = analyses | filters, {}
    with bar("cycles", config.cycles * len(analyses), "cycles", every=10.0) as advance:
        for name, analysis in analyses.items():
            show = lambda chunk, name=name: advance(
                len(chunk.scores.rmse_a), name, report.last_scores(chunk.scores, config.unit)
            )
            records[name] = experiment.run_filter(config, world, name, analysis, on_chunk=show)
    return Comparison(config.title, config.unit, records)


def cycled(
    key: Array,
    truth: Array,
    ensemble: Array,
    filters: Mapping[str, Analysis],
    *,
    forecast: twin.Forecast,
    observe: twin.Observe,
    screen: twin.Screen | None = None,
    scale: float = 1.0,
    unit: str = "1",
    title: str = "",
) -> Comparison:
    """Filters from one first ensemble through one truth, by `twin.cycle`: any model, any operator.

    Args:
        key: of all cycles; each filter sees the same observations.
        truth: `(T, *shape)`, the states that are observed.
        ensemble: forecast for the first, `(M, *shape)`.
        forecast: (key, ensemble) -> ensemble at the next cycle; observe: (key, state) -> Observation.
        screen: of `twin.coupled_cycle`.
        scale: of the scores, in `unit` for each unit of the states.

    Raises:
        ValueError: a filter or forecast that does not return an ensemble of the shape and type that it was given.

    Examples:
        >>> from jaxda import observations
        >>> network = observations.ObservationConfig(operator="identity")
        >>> observe = observations.make_network(network, observations.make_operator(network, (8,)))
        >>> truth = jax.numpy.zeros((5, 8))
        >>> ensemble = 3.0 + jax.random.normal(jax.random.key(1), (10, 8))
        >>> relax = lambda key, members: 0.5 * members  # the model
        >>> filters = {"none": lambda key, x, y: x, "means": lambda key, x, y: (x + y.values) / 2}
        >>> found = cycled(jax.random.key(0), truth, ensemble, filters, forecast=relax, observe=observe)
        >>> found.records["means"].mean("rmse_a") < found.records["none"].mean("rmse_a")
        True
    """
    observation = observe(key, truth[0])
    require_ensemble("forecast", lambda key, ensemble, _: forecast(key, ensemble), ensemble, observation)
    own = {"forecast": forecast, "observe": observe, "screen": screen, "scale": scale}
    records = {}
    for name, analysis in filters.items():
        require_ensemble(f"filters.{name}", analysis, ensemble, observation)
        run = jax.jit(partial(twin.cycle, analysis=analysis, **own)).lower(key, ensemble, truth).compile()
        began = time.perf_counter()
        scores = jax.tree.map(np.asarray, run(key, ensemble, truth)[1][0])
        seconds = time.perf_counter() - began
        status = "ok" if scores.finite.all() else "non-finite"
        records[name] = Record(scores, status, seconds, seconds / len(truth))
    return Comparison(title, unit, records)


def require_ensemble(name: str, function: Analysis, ensemble: Array, observation: Observation) -> None:
    """Raise ValueError unless the function returns an ensemble of the shape and type of the one it is given."""
    found = jax.eval_shape(function, jax.random.key(0), ensemble, observation)
    if not hasattr(found, "shape") or (found.shape, found.dtype) != (ensemble.shape, ensemble.dtype):
        shown = ", ".join(str(leaf) for leaf in jax.tree.leaves(found)) or found
        wanted = f"{ensemble.dtype}{list(ensemble.shape)}"
        raise ValueError(f"{name}: returns {shown} for an ensemble {wanted}; return one of that shape and type")
