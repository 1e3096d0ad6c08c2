"""The compiled parts of a real-time run: an experiment's configuration without its truth.

A cycle has the keys that it has in a twin experiment (`jaxda.twin.coupled_cycle`), so that on the observations of one,
with its first ensemble, it gives the numbers of one.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxda import coupling, diagnostics, experiment, observations, truth, twin
from jaxda.config import ExperimentConfig
from jaxda.experiment import mesh_of
from jaxda.filters import baselines
from jaxda.filters.baselines import Climate
from jaxda.filters.inflation import spread
from jaxda.observations import Observation, Operator, given
from jaxda.output import observation_file
from jaxda.output.atomic import replacing
from jaxda.output.netcdf import FileError
from jaxda.parallel.mesh import jitted
from jaxda.realtime.network import on_network
from jaxda.training.online import Learned
from jaxda.twin import Coupled

#: of the folder of a run: climate and first ensemble
START = "start.npz"


class Moments(NamedTuple):
    """Mean and spread `(*shape)` of an ensemble [unit of the state], and its mean spread in the unit of scores."""

    mean: Array
    spread: Array
    mean_spread: Array


class Innovations(NamedTuple):
    """Numbers of a cycle, in the unit of the operator: y - mean h of the forecast, and of the analysis (residual).

    `expected_rms` is what the ensemble and the errors say that `rms` should be, sqrt(mean(sigma^2 + var h));
    `chi_square` and `flagged` are those of `jaxda.filters.divergence`. `replaced` counts members of the analysis that
    were drawn anew; `finite` says that the others were.
    """

    used: Array
    rejected: Array
    mean: Array
    rms: Array
    expected_rms: Array
    residual_rms: Array
    chi_square: Array
    flagged: Array
    replaced: Array
    finite: Array


@dataclass(frozen=True)
class System:
    """What the loop calls.

    Attributes:
        config: of the experiment, with one filter.
        operator: of its network, whose sites are what files may observe.
        assimilate: (key, number of the cycle, forecast, suspect cycles before, observation) -> analysis, suspect
            cycles by now, its Innovations, and what it used of the observation; the forecast itself where more members
            of the analysis are not finite than may be drawn anew.
        learn: (key, number, model, forecast, analysis, what was used) -> the model to go on with, and a record; None
            where the model stays what it is.
        predict: (key, number, model, analysis) -> forecast `(M, *shape)`, how many members had to be replaced, and how
            many are not finite and could not be.
        model: what the first forecast is made with, weights of a surrogate or a `Learner`; None for SQG.
        moments: ensemble -> Moments.
        key: of the cycles.
        members: how the ensemble lies on the devices.
    """

    config: ExperimentConfig
    operator: Operator
    assimilate: Callable[[Array, int, Array, Array, Observation], tuple[Array, Array, Innovations, Observation]]
    learn: Callable[[Array, int, Any, Array, Array, Observation], tuple[Any, Learned]] | None
    predict: Callable[[Array, int, Any, Array], tuple[Array, Array, Array]]
    model: Any
    moments: Callable[[Array], Moments]
    key: Array
    members: Sharding

    @property
    def name(self) -> str:
        """Name of the filter."""
        return next(iter(self.config.filters))

    @property
    def abstract(self) -> Coupled:
        """Shapes, types and places of what goes from cycle to cycle."""
        shape = (self.config.members_of(self.name), *self.config.model.shape)
        ensemble = jax.ShapeDtypeStruct(shape, jnp.dtype(self.config.precision), sharding=self.members)
        like = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        return Coupled(ensemble, jax.tree.map(like, self.model), like(self._suspect))

    @property
    def _suspect(self) -> Array:
        whole = NamedSharding(self.members.mesh, PartitionSpec())
        return jax.device_put(jnp.zeros((), jnp.int32), whole)

    def first(self, ensemble: Array) -> Coupled:
        """What the first cycle starts from, with the first ensemble `(M, *shape)`."""
        return Coupled(jax.device_put(ensemble, self.members), self.model, self._suspect)

    def read(self, path: Path) -> tuple[float, Observation, int]:
        """Time [s], observations on the network, and how many of the file are of none of its sites; FileError."""
        sites = int(np.prod(self.operator.values_shape))
        found = observation_file.read(path, self.config.model, self.config.observations.operator, sites)
        try:
            values, precision, outside = on_network(self.operator, found, np.dtype(self.config.precision))
        except ValueError as error:
            raise FileError(f"{path}: {error}") from None
        return found.time, Observation(values, precision), outside


def require_sqg(config: ExperimentConfig) -> None:
    """Raise ValueError for another model: files have positions in its domain."""
    if config.model.kind != "sqg":
        raise ValueError(f'model.kind = "{config.model.kind}": files hold SQG observations; use "sqg"')


def check(config: ExperimentConfig, name: str | None) -> ExperimentConfig:
    """The configuration with one of its filters alone.

    Raises:
        ValueError: what a real-time run cannot do.
    """
    require_sqg(config)
    if config.initial.kind == "truth-plus-noise":
        cure = 'use "climatology" or "noise"'
        raise ValueError(f'initial.kind = "truth-plus-noise": there is no truth in a real-time run; {cure}')
    if name is None and len(config.filters) > 1:
        raise ValueError(f"--filter: the configuration has {', '.join(config.filters)}; name one")
    name = name or next(iter(config.filters))
    if name not in config.filters:
        raise ValueError(f"--filter {name}: not one of {', '.join(config.filters)}")
    return dataclasses.replace(config, filters={name: config.filters[name]})


def make_start(config: ExperimentConfig, report: Callable[[int], None] = lambda n: None) -> tuple[Climate, Array]:
    """Climate, and first ensemble `(M, *shape)`, those of a twin experiment that is configured so.

    Raises:
        ValueError: a file of the nature run that does not fit, or a climate that is not finite.
    """
    keys = experiment.keys(config.seed)
    states, _ = experiment.make_nature(config, keys["nature"], report)
    states = truth.on_grid(jnp.asarray(states), config.model.shape)
    if not bool(jnp.isfinite(states).all()):
        raise ValueError("nature: the climate is not finite; use a smaller model.dt")
    members = config.members_of(next(iter(config.filters)))
    like = jnp.zeros_like(states[0])
    return baselines.climate_of(states), twin.initial_ensemble(keys["initial"], config.initial, members, like, states)


def start_in(out: Path, config: ExperimentConfig, bar: Callable) -> tuple[Climate, Array]:
    """As `make_start`, or what `keep_start` left in `out`; `bar` shows how many states are made.

    Raises:
        ValueError: as `make_start`, or files in `out` that cannot be read.
    """
    path = out / START
    if not path.exists():
        states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
        with bar(states) as advance:
            return make_start(config, advance)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: jnp.asarray(arrays[name]) for name in (*Climate._fields, "ensemble")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: not readable ({error}); remove it, it will be made again") from None
    return Climate(*(found[name] for name in Climate._fields)), found["ensemble"]


def keep_start(out: Path, climate: Climate, ensemble: Array) -> None:
    """Write what a run starts from, so that a restart need not make it again, unless it is there."""
    if not (out / START).exists():
        with replacing(out / START) as hidden, hidden.open("wb") as file:
            np.savez(file, ensemble=ensemble, **climate._asdict())


def make_system(config: ExperimentConfig, climate: Climate) -> System:
    """The functions of a run, compiled before the first observation is there.

    Raises:
        ValueError: a filter or network whose settings do not fit, or a surrogate that does not fit the experiment.
    """
    name = next(iter(config.filters))
    operator, _ = experiment.check(config)
    analysis = experiment.make_filter(config, name, operator, climate)
    mesh = mesh_of(config, name)
    model, forecast, learn, placed = coupling.make_forecaster(config, name, operator, climate, mesh)
    guard = experiment.make_guard(config, name, operator, climate, analysis)
    spread_out, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("member",), ()))

    @partial(jitted, mesh=mesh, out_shardings=(spread_out, whole, whole, whole))
    def assimilate(key, number, ensemble, suspect, observation):
        own = twin.keys(key, number)
        screened = observations.screened(operator, ensemble, observation, config.observations.reject)
        posterior, watched, replaced, lost = twin.analyse(own, ensemble, suspect, screened, 0.0, analysis, guard)
        posterior = jnp.where(lost == 0, posterior, ensemble)
        about = (watched.chi_square, watched.flagged, replaced, lost == 0)
        told = _innovations(operator, ensemble, posterior, observation, screened, *about)
        return posterior, watched.suspect, told, screened

    @partial(jitted, mesh=mesh, out_shardings=(placed or whole, whole))
    def learning(key, number, model, ensemble, posterior, used):
        return learn(twin.keys(key, number).learn, number, model, ensemble, posterior, used)

    @partial(jitted, mesh=mesh, out_shardings=(spread_out, whole, whole))
    def predict(key, number, model, ensemble):
        return twin.predict(twin.keys(key, number), number, model, ensemble, forecast, guard)

    @partial(jitted, mesh=mesh, out_shardings=whole)
    def moments(ensemble):
        mean_spread = config.kelvin * diagnostics.mean_spread(ensemble)
        return Moments(ensemble.mean(0), spread(ensemble), mean_spread)

    key = experiment.keys(config.seed)["cycles"]
    learning = learning if learn else None
    system = System(config, operator, assimilate, learning, predict, model, moments, key, spread_out)
    # one cycle for nothing: compiling takes longer than many cycles, and the first should be in time too
    like = system.abstract.ensemble
    ensemble, _, suspect = system.first(jnp.zeros(like.shape, like.dtype))
    nothing = Observation(*(np.zeros(operator.values_shape, like.dtype) for _ in range(2)))
    posterior, _, _, used = assimilate(key, 0, ensemble, suspect, nothing)
    model = learning(key, 0, model, ensemble, posterior, used)[0] if learning else model
    jax.block_until_ready(moments(predict(key, 0, model, posterior)[0]))
    return system


def _innovations(operator, ensemble, posterior, observation, used, *about) -> Innovations:
    seen = given(used)
    count = jnp.sum(seen)
    mean = lambda x: jnp.sum(jnp.where(seen, x, 0.0)) / jnp.maximum(count, 1)
    h, y = operator(ensemble), jnp.where(seen, used.values, 0.0)
    departure, residual = y - h.mean(0), y - operator(posterior).mean(0)
    variance = jnp.var(h, axis=0, ddof=1) + 1.0 / jnp.where(seen, used.precision, 1.0)
    rms = lambda x: jnp.sqrt(mean(x**2))
    expected = jnp.sqrt(mean(variance))
    rejected = jnp.sum(given(observation)) - count
    return Innovations(count, rejected, mean(departure), rms(departure), expected, rms(residual), *about)
