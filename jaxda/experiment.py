"""From an experiment's settings to its run: the world all filters share, each filter, and its record.

Host code: it checks, builds jitted functions, calls them in chunks of cycles and keeps what they return. Where there
are several processes (`jaxda.parallel.launch`), each of them does all of this, with the truth of the first; jitted
calls run on the devices of all, and what they return but for the ensemble is whole in each.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxda import coupling, diagnostics, limits, observations, twin
from jaxda.config import ExperimentConfig, FilterConfig
from jaxda.coupling import Forecaster
from jaxda.filters import baselines, divergence, ensf, faults, letkf, local_score, own
from jaxda.filters.baselines import Climate
from jaxda.filters.divergence import Guard
from jaxda.filters.localization import Geometry
from jaxda.numerics import timestep
from jaxda.observations import Operator
from jaxda.output import netcdf
from jaxda.parallel.launch import from_first
from jaxda.parallel.mesh import jitted, member_mesh
from jaxda.shown import in_brief
from jaxda.training.online import Learned
from jaxda.truth import MODELS, make_truth_advance, on_grid, steps_in, stored_nature
from jaxda.twin import Coupled

#: randomness of an experiment, each part from its own key
PARTS = ("nature", "shocks", "initial", "cycles")
#: kinds whose analyses do not depend on their forecasts, so that two members are enough, however many the processes
WITHOUT_FORECASTS = ("observations-only", "climatology")
#: kinds that can lose the truth
FILTERS = ("local-score", "letkf", "ensf", "own")


@dataclass(frozen=True)
class World:
    """What every filter of an experiment shares.

    Attributes:
        truth: states that are observed and scored, `(cycles, *shape)`; `calm`: the same without shocks.
        climate: mean and variance of the states before them, and some of these.
        first_ensemble: number of members M -> the first forecast, `(M, *shape)`.
        operator, observe: of the cycle.
        key: of the cycles.
    """

    truth: Array
    calm: Array
    climate: Climate
    first_ensemble: Callable[[int], Array]
    operator: Operator
    observe: twin.Observe
    key: Array

    __repr__ = in_brief

    def seen_by(self, settings: FilterConfig) -> Array:
        """The truth that a filter with these settings observes and is scored against, `(cycles, *shape)`."""
        return self.truth if settings.shocks else self.calm


class Chunk(NamedTuple):
    """Some cycles of a filter, done in one call.

    Attributes:
        first: number of the first.
        scores, fields, learned: of each, `(T, ...)`; fields None where the run was not finite, or they were not kept,
            learned None where nothing learns.
        coupled: what the next cycle starts from.
        seconds: time for each cycle.
    """

    first: int
    scores: twin.Scores
    fields: twin.Fields | None
    learned: Learned | None
    coupled: Coupled
    seconds: float

    __repr__ = in_brief

    @property
    def done(self) -> int:
        """Cycles done with it."""
        return self.first + len(self.scores.rmse_a)

    @property
    def finite(self) -> bool:
        """Whether it may be gone on from."""
        return bool(self.scores.finite.all())


@dataclass(frozen=True)
class Record:
    """What a filter did: its scores by cycle `(T,)` each, how it ended, and its time.

    `status` is "ok", "non-finite" or "diverged"; seconds_per_cycle is the median over chunks after the first, which
    also compiles; `learned` is None where nothing learnt.
    """

    scores: twin.Scores
    status: str
    seconds: float
    seconds_per_cycle: float
    learned: Learned | None = None

    __repr__ = in_brief

    def mean(self, name: str, last: float = 1.0) -> float:
        """Mean of one score over the last part of the cycles."""
        series = getattr(self.scores, name)
        return float(np.mean(series[len(series) - max(1, round(last * len(series))) :]))

    def total(self, name: str) -> int:
        """What a score that counts adds up to in all cycles; of a forecast that is not finite none count."""
        return int(np.sum(getattr(self.scores, name), where=np.isfinite(self.scores.rmse_b)))


def keys(seed: int) -> dict[str, Array]:
    """One key for each part of an experiment."""
    return dict(zip(PARTS, jax.random.split(jax.random.key(seed), len(PARTS)), strict=True))


def chunk_of(shape: tuple[int, ...]) -> int:
    """Cycles in one jitted call, more for small states: between calls the bar moves and records are written."""
    return 10 if np.prod(shape) > 1000 else 100


def length_of(cycles: int, wanted: int) -> int:
    """Cycles in each call but perhaps the last, near to as many as are wanted.

    One that divides them, if any from half to one and a half of that does: a shorter last call is another program,
    and compiling it takes longer than its cycles do. Never more than two programs, however many the cycles; more cycles
    than are wanted take two calls at least, so that the second tells how long one takes without compiling.
    """
    if cycles <= wanted:
        return cycles
    fitting = [n for n in range(-(-wanted // 2), wanted + wanted // 2 + 1) if cycles % n == 0 and n < cycles]
    if fitting:
        return min(fitting, key=lambda n: abs(n - wanted))
    return -(-cycles // -(-cycles // wanted))


def make_nature(config: ExperimentConfig, key: Array, report: Callable[[int], None]) -> tuple[np.ndarray, Array]:
    """States of the climate `(T, *shape of the truth's model)` and the first true state after them.

    `report` is told the states done. The states come from `nature.file`, or from running the truth's model.
    """
    model, hours = config.truth_model, config.interval_hours
    spinup, count = (round(24 * days / hours) for days in (config.nature.spinup_days, config.nature.climate_days))
    if config.nature.file is not None:
        run, first, last, stride = stored_nature(config)
        states = netcdf.read_states(run, first, last + 1)[::stride].astype(config.precision)
        return states[:-1], jnp.asarray(states[-1])
    module = MODELS[model.kind]
    state = module.initial_state(key, model).astype(config.precision)
    advance = module.make_advance(model, steps_in(hours, model), config.precision)
    chunk = chunk_of(model.shape)
    save = jax.jit(timestep.trajectory(advance, chunk, 1))
    series = []
    for _ in range(-(-(spinup + count) // chunk)):
        state, states = save(state)
        series.append(np.asarray(states))
        report(chunk)
    return np.concatenate(series)[-count:], state


def make_world(config: ExperimentConfig, report: Callable[[int], None] = lambda states: None) -> World:
    """Truth, climate, network, forecast and first ensemble of an experiment.

    Raises:
        ValueError: settings or files that do not fit, or a truth or observations that are not finite.

    Examples:
        >>> from jaxda import config
        >>> world = make_world(config.read("configs/small.toml", {"model.N": 16, "cycles": 3, "nature.spinup_days": 5}))
        >>> world.truth.shape, world.first_ensemble(7).shape
        ((3, 2, 16, 16), (7, 2, 16, 16))
    """
    key = keys(config.seed)
    shape = config.model.shape
    operator, observe = check(config)
    climate_states, start = make_nature(config, key["nature"], report)
    advance = make_truth_advance(config)
    run = lambda shocks: on_grid(
        jax.jit(partial(twin.truth_run, key["shocks"], shocks, advance, cycles=config.cycles))(start), shape
    )
    truth = run(config.shocks)
    climate_states = on_grid(jnp.asarray(climate_states), shape)
    calm, first = truth, truth[0]
    if config.shocks.kind == "transient":
        truth = jax.jit(partial(twin.shocked, key["shocks"], config.shocks))(truth)
    elif config.shocks.kind == "persistent" and not all(own.shocks for own in config.filters.values()):
        calm = run(twin.ShockConfig())
    truth, calm, first, climate_states = map(jnp.asarray, from_first((truth, calm, first, climate_states)))
    if not bool(jnp.isfinite(truth).all() & jnp.isfinite(climate_states).all()):
        raise ValueError("nature: the truth is not finite; use a smaller model.dt or weaker shocks")
    if not bool(jnp.isfinite(operator(first)).all()):
        raise ValueError("observations: the operator makes values of the truth that are not finite; check its function")

    return World(
        truth=truth,
        calm=calm,
        climate=baselines.climate_of(climate_states),
        first_ensemble=lambda m: from_first(
            twin.initial_ensemble(key["initial"], config.initial, m, first, climate_states)
        ),
        operator=operator,
        observe=observe,
        key=key["cycles"],
    )


def check(config: ExperimentConfig) -> tuple[Operator, twin.Observe]:
    """Operator and network of an experiment; raises what is wrong with them or the filters before the long part."""
    require_memory(config)
    if config.nature.file is not None:
        stored_nature(config)
    try:
        operator = observations.make_operator(config.observations, config.model.shape, config.kelvin)
        observe = observations.make_network(config.observations, operator, dtype=config.precision)
    except ValueError as error:
        raise ValueError(f"observations: {error}") from None
    shape = config.model.shape
    unit = Climate(jnp.zeros(shape), jnp.ones(shape), jnp.zeros((2, *shape)))
    for name in config.filters:
        make_filter(config, name, operator, unit)
    coupling.check(config)
    return operator, observe


def require_memory(config: ExperimentConfig) -> None:
    """Raise ValueError for members, cycles or days whose states are more than this machine holds."""
    size = lambda model: np.dtype(config.precision).itemsize * float(np.prod(model.shape, dtype=float))
    members = max(map(config.members_of, config.filters)) / jax.process_count()
    states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
    for name, value, n_bytes in (
        ("members", max(map(config.members_of, config.filters)), members * size(config.model)),
        ("cycles", config.cycles, config.cycles * size(config.truth_model)),
        ("nature.spinup_days and climate_days", states, states * size(config.truth_model)),
    ):
        limits.require_memory(f"{name}: {value:.6g} states of {config.model.shape}", n_bytes, "use fewer or smaller")


def mesh_of(config: ExperimentConfig, name: str) -> Mesh:
    """The devices of one of the experiment's filters: of all processes, or of each by itself, which then does it all.

    Raises:
        ValueError: processes that do not divide the members of a filter that needs its forecasts.
    """
    alone = config.filters[name].kind in WITHOUT_FORECASTS and config.members_of(name) % jax.process_count()
    return member_mesh(config.members_of(name), jax.local_devices() if alone else None)


def make_filter(config: ExperimentConfig, name: str, operator: Operator, climate: Climate) -> twin.Analysis:
    """The analysis of one of the experiment's filters.

    Raises:
        ValueError: settings that do not fit the network, with the filter's name.
    """
    settings = config.filters[name]
    geometry = Geometry.of(config.model)
    climate_spread = float(jnp.sqrt(climate.variance.mean()))
    initial_spread = climate_spread if config.initial.kind == "climatology" else config.initial.noise
    make = {
        "local-score": lambda: local_score.make_analysis(settings, geometry, operator, mesh),
        "letkf": lambda: letkf.make_analysis(settings, geometry, operator, mesh, climate.states),
        "ensf": lambda: ensf.make_analysis(settings, operator, initial_spread, mesh),
        "free-run": baselines.make_free_run,
        "observations-only": lambda: baselines.make_observations_only(operator, climate),
        "climatology": lambda: baselines.make_climatology(operator, climate),
        "own": own.make_analysis,
    }
    try:
        mesh = mesh_of(config, name)
        return make[settings.kind]()
    except ValueError as error:
        raise ValueError(f"filters.{name}: {error}") from None


def make_forecaster(config: ExperimentConfig, world: World, name: str) -> Forecaster:
    """What one of the experiment's filters forecasts with, on its devices; raises as `coupling.make_forecaster`."""
    return coupling.make_forecaster(config, name, world.operator, world.climate, mesh_of(config, name))


def make_guard(
    config: ExperimentConfig, name: str, operator: Operator, climate: Climate, analysis: twin.Analysis
) -> Guard:
    """What looks after the members of one of the experiment's filters, and after the filter."""
    mend = faults.make_mend(config.faults, config.members_of(name), mesh_of(config, name))
    watched = config.filters[name].kind in FILTERS
    return divergence.make_guard(config.faults, mend, operator, climate, analysis, watched=watched, scale=config.kelvin)


def run_filter(
    config: ExperimentConfig,
    world: World,
    name: str,
    analysis: twin.Analysis,
    forecaster: Forecaster | None = None,
    on_chunk: Callable[[Chunk], None] = lambda chunk: None,
    resume: Callable[[Coupled], Chunk | None] = lambda coupled: None,
) -> Record:
    """Cycle one filter through the truth, chunk by chunk, each of which `on_chunk` is told.

    A run that goes non-finite ends there, its remaining scores NaN: where more members are than may be drawn anew
    (`FaultsConfig.replaced_limit`). The chunk in which it does is not `finite`, and nothing to go on from.

    Args:
        forecaster: of `make_forecaster`; None: made here.
        resume: what the first cycle starts from -> all that was done before an interruption, as one chunk from cycle 0
            on; None: nothing was.
    """
    members = config.members_of(name)
    mesh = mesh_of(config, name)
    model, forecast, learn, placed = forecaster or make_forecaster(config, world, name)
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("member",), ()))
    run = jitted(
        partial(
            twin.coupled_cycle,
            forecast=forecast,
            learn=learn,
            guard=make_guard(config, name, world.operator, world.climate, analysis),
            observe=world.observe,
            analysis=analysis,
            screen=partial(observations.screened, world.operator, limit=config.observations.reject),
            spectra=diagnostics.make_spectra(config.model, config.precision) if config.model.kind == "sqg" else None,
            scale=config.kelvin,
            keep_members=config.output.members,
        ),
        mesh,
        out_shardings=(Coupled(spread, placed or whole, whole), whole),
    )
    states = world.seen_by(config.filters[name])
    suspect = jax.device_put(jnp.zeros((), jnp.int32), whole)
    coupled = Coupled(jax.device_put(world.first_ensemble(members), spread), model, suspect)
    before = resume(coupled)
    chunks, coupled = ([before], before.coupled) if before else ([], coupled)
    length = length_of(config.cycles, chunk_of(config.model.shape))
    for first in range(before.done if before else 0, config.cycles, length):
        began = time.perf_counter()
        truth = states[first : first + length]
        if not chunks or chunks[-1].finite:
            coupled, (scores, fields, learned) = run(world.key, coupled, truth, first=first)
            fields = jax.tree.map(lambda field: field.addressable_data(0), fields)  # whole, on a device of this process
            # copies: on CPUs np.asarray looks into the device's array, which would be kept for as long
            scores, learned = jax.tree.map(np.array, (scores, learned))
        else:
            lost = partial(jax.tree.map, partial(_unknown, len(truth)))
            scores, fields, learned = lost(chunks[-1].scores), None, lost(chunks[-1].learned)
        chunks.append(Chunk(first, scores, fields, learned, coupled, (time.perf_counter() - began) / len(truth)))
        on_chunk(chunks[-1])
        chunks[-1] = chunks[-1]._replace(fields=None, coupled=None)
    scores, learned = joined(chunks)
    seconds = [chunk.seconds for chunk in chunks]
    total = sum(s * (c.done - c.first) for s, c in zip(seconds, chunks, strict=True))
    record = Record(scores, "ok", total, float(np.median(seconds[1:] or seconds)), learned)
    return dataclasses.replace(record, status=_status(config, world, name, record))


def joined(chunks: Sequence[Chunk]) -> tuple[twin.Scores, Learned | None]:
    """The series of scores and records of learning of all cycles of some chunks."""
    parts = [(chunk.scores, chunk.learned) for chunk in chunks]
    return jax.tree.map(lambda *own: np.concatenate(own), *parts)


def _unknown(count: int, like: np.ndarray) -> np.ndarray:
    return np.full(count, np.nan, like.dtype if like.dtype.kind == "f" else float)


def _status(config: ExperimentConfig, world: World, name: str, record: Record) -> str:
    """A filter has diverged if it ends with a larger error than the climate's mean would have."""
    if not record.scores.finite.all():
        return "non-finite"
    climate_error = config.kelvin * float(jnp.sqrt(world.climate.variance.mean()))
    return "diverged" if config.filters[name].kind in FILTERS and record.mean("rmse_a", 1 / 3) > climate_error else "ok"
