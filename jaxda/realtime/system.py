"""The compiled parts of a real-time run: an experiment's configuration without its truth.

A cycle has the keys that it has in a twin experiment (`jaxda.twin.cycle`), so that on the observations of one, with its
first ensemble, it gives the numbers of one.
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

from jaxda import coupling, diagnostics, experiment, observations, twin
from jaxda.config import ExperimentConfig
from jaxda.experiment import mesh_of
from jaxda.filters.baselines import Climate
from jaxda.filters.inflation import spread
from jaxda.observations import Observation, Operator, given
from jaxda.output import observation_file
from jaxda.output.atomic import replacing
from jaxda.output.netcdf import FileError

#: how far an observation may be from its site [grid points]
SITE_TOLERANCE = 1e-3


class Moments(NamedTuple):
    """Mean and spread `(*shape)` of an ensemble [unit of the state], and its mean spread in the unit of scores."""

    mean: Array
    spread: Array
    mean_spread: Array


class Innovations(NamedTuple):
    """Numbers of a cycle, in the unit of the operator: y - mean h of the forecast, and of the analysis (residual).

    `expected_rms` is what the ensemble and the errors say that `rms` should be, sqrt(mean(sigma^2 + var h)).
    """

    used: Array
    rejected: Array
    mean: Array
    rms: Array
    expected_rms: Array
    residual_rms: Array
    finite: Array


@dataclass(frozen=True)
class System:
    """What the loop calls.

    Attributes:
        config: of the experiment, with one filter.
        operator: of its network, whose sites are what files may observe.
        assimilate: (key, number of the cycle, forecast, observation) -> analysis and its Innovations; the forecast
            itself where the analysis is not finite.
        predict: (key, number, model, analysis) -> forecast, ensembles `(M, *shape)`.
        model: parameters of the forecast; may be changed between cycles.
        moments: ensemble -> Moments.
        key: of the cycles.
        members: how the ensemble lies on the devices.
    """

    config: ExperimentConfig
    operator: Operator
    assimilate: Callable[[Array, int, Array, Observation], tuple[Array, Innovations]]
    predict: Callable[[Array, int, Any, Array], Array]
    model: Any
    moments: Callable[[Array], Moments]
    key: Array
    members: Sharding

    @property
    def name(self) -> str:
        """Name of the filter."""
        return next(iter(self.config.filters))

    @property
    def abstract(self) -> jax.ShapeDtypeStruct:
        """The ensemble's shape, type and place."""
        shape = (self.config.members_of(self.name), *self.config.model.shape)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(self.config.precision), sharding=self.members)

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
    states = experiment.on_grid(jnp.asarray(states), config.model.shape)
    if not bool(jnp.isfinite(states).all()):
        raise ValueError("nature: the climate is not finite; use a smaller model.dt")
    members = config.members_of(next(iter(config.filters)))
    like = jnp.zeros_like(states[0])
    return experiment.climate_of(states), twin.initial_ensemble(keys["initial"], config.initial, members, like, states)


def start_in(out: Path, config: ExperimentConfig, bar: Callable) -> tuple[Climate, Array | None]:
    """As `make_start`, kept in `out`, so that a restart need not make it again; `bar` shows how many states are made.

    Raises:
        ValueError: as `make_start`, or files in `out` that cannot be read.
    """
    path = out / "start.npz"
    if not path.exists():
        states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
        with bar(states) as advance:
            climate, ensemble = make_start(config, advance)
        with replacing(path) as hidden, hidden.open("wb") as file:
            np.savez(file, ensemble=ensemble, **climate._asdict())
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: jnp.asarray(arrays[name]) for name in (*Climate._fields, "ensemble")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: not readable ({error}); remove it, it will be made again") from None
    return Climate(*(found[name] for name in Climate._fields)), found["ensemble"]


def make_system(config: ExperimentConfig, climate: Climate) -> System:
    """The functions of a run, compiled before the first observation is there.

    Raises:
        ValueError: a filter or network whose settings do not fit.
    """
    name = next(iter(config.filters))
    operator, _ = experiment.check(config)
    analysis = experiment.make_filter(config, name, operator, climate)
    mesh = mesh_of(config, name)
    model, forecast, *_ = coupling.make_forecaster(config, name, operator, climate, mesh)
    spread_out, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("member",), ()))

    @partial(jax.jit, out_shardings=(spread_out, whole))
    def assimilate(key, number, ensemble, observation):
        key_analysis = twin.keys(key, number).analysis
        screened = observations.screened(operator, ensemble, observation, config.observations.reject)
        posterior = analysis(key_analysis, ensemble, screened)
        finite = jnp.isfinite(posterior).all()
        posterior = jnp.where(finite, posterior, ensemble)
        return posterior, _innovations(operator, ensemble, posterior, observation, screened, finite)

    @partial(jax.jit, out_shardings=spread_out)
    def predict(key, number, model, ensemble):
        return forecast(twin.keys(key, number).forecast, number, model, ensemble)[0]

    @partial(jax.jit, out_shardings=whole)
    def moments(ensemble):
        mean_spread = config.kelvin * diagnostics.mean_spread(ensemble)
        return Moments(ensemble.mean(0), spread(ensemble), mean_spread)

    key = experiment.keys(config.seed)["cycles"]
    system = System(config, operator, assimilate, predict, model, moments, key, spread_out)
    # one cycle for nothing: compiling takes longer than many cycles, and the first should be in time too
    ensemble = jax.device_put(jnp.zeros(system.abstract.shape, system.abstract.dtype), spread_out)
    nothing = Observation(*(np.zeros(operator.values_shape, system.abstract.dtype) for _ in range(2)))
    posterior, _ = assimilate(key, 0, ensemble, nothing)
    jax.block_until_ready(moments(predict(key, 0, model, posterior)))
    return system


def _innovations(operator, ensemble, posterior, observation, used, finite) -> Innovations:
    seen = given(used)
    count = jnp.sum(seen)
    mean = lambda x: jnp.sum(jnp.where(seen, x, 0.0)) / jnp.maximum(count, 1)
    h, y = operator(ensemble), jnp.where(seen, used.values, 0.0)
    departure, residual = y - h.mean(0), y - operator(posterior).mean(0)
    variance = jnp.var(h, axis=0, ddof=1) + 1.0 / jnp.where(seen, used.precision, 1.0)
    rms = lambda x: jnp.sqrt(mean(x**2))
    expected = jnp.sqrt(mean(variance))
    rejected = jnp.sum(given(observation)) - count
    return Innovations(count, rejected, mean(departure), rms(departure), expected, rms(residual), finite)


def on_network(
    operator: Operator, found: observation_file.Observations, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values and precisions `(*values_shape)` of observations at the sites of a network, and how many are at none.

    The sites are the grid points, or the positions of the operator. Precision is 0 where nothing is observed.

    Raises:
        ValueError: no observation at a site, two at one, or an error whose 1/sigma^2 the type cannot hold.
    """
    site, distance = nearest_sites(operator, found.positions)
    inside = distance <= SITE_TOLERANCE
    if not inside.any():
        where = ", ".join(f"{p:g}" for p in found.positions[0])
        wrong = f"obs[0] is at grid indices ({where}); correct z, y and x"
        raise ValueError(f"no observation is at a site of the network, {wrong}")
    numbers, counts = np.unique(site[inside], return_counts=True)
    if (counts > 1).any():
        twice = np.flatnonzero(inside & (site == numbers[np.argmax(counts > 1)]))[:2]
        raise ValueError(f"obs[{twice[0]}] and obs[{twice[1]}] are at one site of the network; give each site once")
    values = np.full(operator.values_shape, np.nan, dtype)
    precision = np.zeros(operator.values_shape, dtype)
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        values.flat[site[inside]] = found.values[inside]
        precision.flat[site[inside]] = 1.0 / found.errors[inside].astype(dtype) ** 2
    kept = precision.flat[site]
    wrong = inside & ~(np.isfinite(kept) & (kept >= np.finfo(dtype).tiny) & np.isfinite(values.flat[site]))
    if wrong.any():
        at = int(np.argmax(wrong))
        size = f"value[{at}] = {found.values[at]:g}, error[{at}] = {found.errors[at]:g}"
        raise ValueError(f"{size}: too large or small for {dtype}; correct them")
    return values, precision, int(np.sum(~inside))


def nearest_sites(operator: Operator, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat number of the site nearest to each position `(P, 3)`, and the distance along the farther axis [grid points].

    Horizontally the grid is periodic, and an observation on another boundary is at no site.
    """
    levels, n = operator.shape[0], operator.shape[-1]
    if operator.positions is None:
        near = np.rint(positions).astype(int)
        distance = np.abs(positions - near).max(1)
        return np.ravel_multi_index((near[:, 0], near[:, 1] % n, near[:, 2] % n), (levels, n, n)), distance
    site, distance = np.zeros(len(positions), int), np.zeros(len(positions))
    for i, position in enumerate(positions):
        apart = np.abs(operator.positions - position)
        apart[:, 1:] = np.minimum(apart[:, 1:], n - apart[:, 1:])
        farther = apart.max(1)
        site[i] = np.argmin(farther)
        distance[i] = farther[site[i]]
    return site, distance
