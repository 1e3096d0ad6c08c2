"""A surrogate from a configuration to checkpoints: series -> samples -> steps, validated and saved on the way."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from jaxda import __version__, limits, sources
from jaxda import config as configuration
from jaxda.models import sqg, vit
from jaxda.models.sqg import SQGConfig
from jaxda.models.vit import ViTConfig
from jaxda.numerics import timestep
from jaxda.output import netcdf, record
from jaxda.output import report as reporting
from jaxda.output.atomic import replacing
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.output.training_log import TrainingLog
from jaxda.parallel import sharding
from jaxda.parallel.sharding import Layout, ParallelConfig
from jaxda.parallel.stopping import Stop
from jaxda.settings import Count, NonNegative, Positive, Seed, described, difference, one_line, settings
from jaxda.shown import in_brief
from jaxda.sources import Source
from jaxda.training import dataset, flops, simulator, trainer
from jaxda.training.dataset import DataConfig, Series, Statistics
from jaxda.training.trainer import TrainConfig, TrainState


@settings
class SeriesConfig:
    """Where the states come from: a file, a run made here, or the model while the training goes on."""

    source: Literal["series", "simulator"] = described(
        "series", "samples of one stored run, or made on the device by the model as they are needed"
    )
    pool: Count = described(64, "independent states that the simulator walks on, a multiple of data.batch [1]")
    file: str | None = described(None, "NetCDF nature run to read; made here if left out")
    spinup_days: NonNegative = described(100.0, "left out at the start of a series made here [day]")
    days: Positive = described(600.0, "length of a series made here [day]")
    interval_hours: Positive = described(3.0, "between its states [h]")
    seed: Seed = described(0, "of its first state [1]")

    @model_validator(mode="after")
    def _check(self):
        if self.source == "simulator" and self.file is not None:
            raise ValueError(f'file = {self.file}: source = "simulator" reads none; leave either out')
        return self


@settings
class SurrogateConfig:
    """One training: the model to learn, its series, the architecture, the samples and the optimizer."""

    title: str = described("", "shown above the scores")
    hybrid: bool = described(False, "whether the network corrects forecasts of the model, to those of its series")
    model: SQGConfig = Field(default_factory=SQGConfig, description="the model to learn, or to correct")
    series: SeriesConfig = Field(default_factory=SeriesConfig, description="its states")
    vit: ViTConfig = Field(default_factory=ViTConfig, description="architecture")
    data: DataConfig = Field(default_factory=DataConfig, description="samples")
    train: TrainConfig = Field(default_factory=TrainConfig, description="optimizer and run")
    parallel: ParallelConfig = Field(default_factory=ParallelConfig, description="devices")

    def __post_init__(self):
        if (self.vit.variables, self.vit.image_size, self.vit.image_size) != self.model.shape:
            raise ValueError(
                f"vit.image_size = {self.vit.image_size} and vit.variables = {self.vit.variables} are not the grid of "
                f"the model, N = {self.model.N} and 2 boundaries; make them equal"
            )
        if self.series.source == "simulator":
            simulator.require_pool(self.series.pool, self.data)
            simulator.lead_steps(self.model, self.data)
        if self.hybrid:
            if not self.vit.residual or self.vit.first_guess:
                raise ValueError("hybrid = True has the model for a first guess; use residual = true, first_guess = 0")
            simulator.lead_steps(self.model, self.data)


def series_days(config: SurrogateConfig) -> float:
    """Days of the series that `make_series` keeps when it makes one [day]."""
    return config.series.days * (config.data.validation if config.series.source == "simulator" else 1.0)


def planned_series(config: SurrogateConfig) -> Series:
    """The series of `make_series` without what takes long: one made here has no states yet.

    Raises:
        FileError, ValueError: as `make_series`, but for states that are not finite; more states than memory holds.
    """
    own = config.series
    if config.hybrid and own.file is None:
        raise ValueError("hybrid = True: the model needs no correction to states of its own; give series.file")
    if own.file is not None:
        run = netcdf.read_nature_run(own.file)
        netcdf.require_grid(run, config.model)
        return Series(len(run.times), netcdf.interval_hours(own.file, run.times), partial(netcdf.read_numbered, run))
    steps = own.interval_hours / config.model.step_hours
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
        raise ValueError(
            f"series.interval_hours = {own.interval_hours:g} is not a multiple of the model's step of "
            f"{config.model.step_hours:g} h; use {max(1, round(steps)) * config.model.step_hours:g}"
        )
    per_day = 24.0 / own.interval_hours
    count = round(series_days(config) * per_day)
    longest = max(count, own.spinup_days * per_day)
    what = f"series.days = {own.days:g} and spinup_days = {own.spinup_days:g}: {longest:.3g} states"
    limits.require_memory(what, 4.0 * longest * math.prod(config.model.shape), "use less")
    return Series(count, own.interval_hours, None)


def check(config: SurrogateConfig) -> None:
    """Raise ValueError for samples that cannot be made, before anything is computed."""
    layout = sharding.make_layout(config.parallel)
    sharding.require_samples(layout, config.data.batch, config.vit.depth)
    make_source(config, planned_series(config), jax.random.key(0), layout)


def make_series(config: SurrogateConfig, report: Callable[[float], None] = lambda days: None) -> Series:
    """The states of the file, read as they are needed, or of the model, in memory; `report` is told the days made.

    Where the simulator makes the samples, these are the states to validate on: `data.validation` of the days.

    Raises:
        FileError, ValueError: a file that does not fit or cannot be read, or states that are not finite.
    """
    own, planned = config.series, planned_series(config)
    if own.file is not None:
        return planned
    advance = sqg.make_advance(config.model, round(own.interval_hours / config.model.step_hours))
    per_day = 24.0 / own.interval_hours
    spinup, count, chunk = round(own.spinup_days * per_day), planned.count, 40
    save = jax.jit(timestep.trajectory(advance, chunk, 1))
    state, parts = sqg.initial_state(jax.random.key(own.seed), config.model).astype(jnp.float32), []
    for first in range(0, spinup + count, chunk):
        state, states = save(state)
        if first + chunk > spinup:
            parts.append(np.asarray(states[max(0, spinup - first) :]))
        report(min(chunk, spinup + count - first) / per_day)
    states = np.concatenate(parts)[:count]
    if not np.isfinite(states).all():
        raise ValueError(f"model.dt = {config.model.dt:g}: the series is not finite; use less")
    return Series.of(states, own.interval_hours)


def apply_of(config: SurrogateConfig, normalisation: Statistics) -> Callable:
    """What training and forecasts call: (params, x, lead_time, *, keys=None) -> normalised states one lead later.

    A hybrid's network sees what the model makes of the states, and adds to it.
    """
    network = partial(vit.apply, config.vit)
    if not config.hybrid:
        return network
    model = model_of(config, normalisation)
    return lambda params, x, lead_time, **rest: network(params, model(x), lead_time, **rest)


def model_of(config: SurrogateConfig, normalisation: Statistics) -> Callable:
    """The model that a hybrid corrects: normalised states `(..., 2, N, N)` -> the same one lead later."""
    advance = sqg.make_advance(config.model, simulator.lead_steps(config.model, config.data), jnp.float32)
    return lambda x: normalisation.normalise(advance(normalisation.restore(x)))


def meta_of(config: SurrogateConfig, normalisation: Statistics) -> dict:
    """What a checkpoint needs beside its arrays: settings, statistics, version."""
    plain = dataclasses.asdict(config)
    own = {"mean": normalisation.mean.tolist(), "std": normalisation.std.tolist()}
    return {"version": __version__, "versions": reporting.versions(), "settings": plain, "statistics": own}


def settings_of(meta: dict, place: str | Path) -> tuple[SurrogateConfig, Statistics]:
    """Settings and statistics of a checkpoint.

    Raises:
        FileError: either is missing or cannot be used.
    """
    for name in ("settings", "statistics"):
        if name not in meta:
            raise FileError(f"{place}: its {name} are missing; give a checkpoint that scripts/train_vit.py wrote")
    try:
        config = TypeAdapter(SurrogateConfig).validate_python(meta["settings"])
    except ValidationError as error:
        raise FileError(f"{place}: its settings cannot be used: {one_line(error)}") from None
    except ArithmeticError as error:
        raise FileError(f"{place}: its settings cannot be used: {error}") from None
    own = meta["statistics"]
    try:
        found = Statistics(*(np.asarray(own[name], np.float64) for name in ("mean", "std")))
    except (KeyError, TypeError, ValueError):
        found = None
    shape = (config.vit.variables,)
    if found is None or any(part.shape != shape or not np.isfinite(part).all() for part in found):
        raise FileError(f"{place}: statistics = {str(own)[:60]} are not a mean and a std of {shape[0]} variables")
    return config, found


class Trained(NamedTuple):
    """What forecasts need: settings, statistics, and the moving average of the weights after `step` steps."""

    config: SurrogateConfig
    statistics: Statistics
    params: Any
    step: int

    __repr__ = in_brief


def load(folder: str | Path, which: Literal["best", "last"] = "best", sharding=None) -> Trained:
    """A trained surrogate from the folder that a training wrote, or from the `checkpoints` in it.

    Args:
        which: the checkpoint with the smallest validation error, or the last.
        sharding: of the weights; None: the default device.

    Raises:
        FileError: no checkpoint, a damaged one, one without settings or statistics, or with other arrays than its
            settings ask for.
    """
    folder = Path(folder)
    inside = folder / "checkpoints"
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(inside if inside.is_dir() else folder, create=False) as checkpoints:
        number = getattr(checkpoints, which)
        config, normalisation = settings_of(checkpoints.meta(number), checkpoints.folder / str(number))
        shapes = jax.eval_shape(partial(vit.init, config=config.vit), jax.random.key(0))
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
        params = checkpoints.restore_part(number, {"average": wanted})["average"]
    return Trained(config, normalisation, params, number)


def train(
    config: SurrogateConfig,
    series: Series,
    out: Path,
    report: Callable[[int, str], None] = lambda step, text: None,
    begun_in: Callable[[], None] = lambda: None,
    stop: Stop | None = None,
) -> dict:
    """Train from the last checkpoint in `out`, or from the start, and return the row of the best validation.

    Writes `out/config.toml`, `out/checkpoints`, `out/events` for TensorBoard and `out/log.csv`, a row for each
    validation. `report` is told the number of steps done, and what to say; `begun_in` is called when there is a folder.

    Raises:
        FileError, ValueError: samples that cannot be made, other settings, or a loss that is not finite.
        Stopped: `stop` said so after a step, whose state is saved.
    """
    stop = stop or Stop()
    own, key = config.train, jax.random.key(config.train.seed)
    key_init, key_data, key_train, key_validation = jax.random.split(key, 4)
    layout = sharding.make_layout(config.parallel)
    sharding.require_samples(layout, config.data.batch, config.vit.depth)
    source = make_source(config, series, key_data, layout)
    make_state = lambda: trainer.init_state(own, vit.init(key_init, config.vit))
    rows: list[dict] = []
    start = lambda: source.start(lambda days: report(0, f"spin-up, {days:g} days"))
    # data that cannot be used leave no folder behind
    begun = None if (out / "checkpoints").is_dir() else start()
    with Checkpoints(out / "checkpoints") as checkpoints, ExitStack() as files:
        state, best = trainer.on_devices(layout, make_state), (math.inf, 0)
        if checkpoints.last is None:
            normalisation, data = begun or start()
        else:
            state, data, normalisation, best = resumed(checkpoints, config, state, source.empty)
            data = start()[1] if data is None and source.empty is not None else data
        first = int(state.step)
        writes = jax.process_index() == 0
        log = files.enter_context(TrainingLog(out, first, writes))
        if writes:
            with replacing(out / "config.toml") as hidden:
                configuration.write(hidden, config)
            begun_in()
        meta = meta_of(config, normalisation)
        step = jax.jit(trainer.make_train_step(own, apply_of(config, normalisation), layout), donate_argnums=0)
        validate = make_validation(config, series, source.validation, normalisation, key_validation, layout)
        samples = config.data.batch * own.accumulate
        work = flops.of_step(config.vit, samples * config.data.roll_out)
        peak = layout.mesh.size * flops.product_rate(str(config.vit.dtype or jnp.float32.dtype))
        began = time.perf_counter()
        mark = (first, began)  # rates are those of the steps since then
        patient = lambda done: own.patience is None or (done - best[1]) // own.validate_every < own.patience
        last = own.steps if patient(first) else first  # it ended, or was killed when it was about to
        for number, (some, after) in zip(range(first, last), source.batches(normalisation, data, first)):
            state, metrics = step(state, some, key_train)
            loss, done = float(metrics.loss), number + 1
            if not bool(metrics.finite):
                checkpoints.save(number, state, meta | {"best": list(best)}, math.inf, data)
                trouble = f"the loss is {loss:g} at step {number}; the state before it is saved"
                raise ValueError(
                    f"train.learning_rate = {own.learning_rate:g}: {trouble}; use a smaller rate or train.clip"
                )
            data, now = after, time.perf_counter()
            rates = flops.rates(samples * (done - mark[0]), work * (done - mark[0]), now - mark[1], peak)
            score = f"RMSE {rows[-1]['rmse_1']:.3f} K, " if rows else ""
            report(done, f"loss {loss:.4f}, {score}{flops.in_words(rates)}")
            rate = float(metrics.learning_rate)
            if done % own.log_every == 0:
                norm = float(metrics.gradient_norm)
                log.scalars(done, {"train/loss": loss, "train/gradient_norm": norm, "train/learning_rate": rate})
            if done % own.validate_every and done < own.steps:
                mark = (done, now) if number == first else mark  # the first step compiles
                if stop():
                    checkpoints.save(done, state, meta | {"best": list(best)}, math.inf, data)
                    stop.check()
                continue
            row = {"step": done, "loss": loss, "learning_rate": rate, "seconds": now - began}
            rows.append(row | rates | validate(state.average))
            log.row(rows[-1])
            error = rows[-1]["rmse_1"]  # infinite in checkpoints between validations: never the best
            best = (error, done) if error < best[0] else best
            checkpoints.save(done, state, meta | {"best": list(best)}, error, data)
            if not patient(done):
                break
            if done < own.steps:
                stop.check()
            mark = (done, time.perf_counter())
    return min(rows, key=lambda row: row["rmse_1"]) if rows else {"step": int(state.step), "rmse_1": best[0]}


def make_source(config: SurrogateConfig, series: Series, key, layout: Layout) -> Source:
    """The samples that the configuration asks for; raises ValueError where they cannot be made."""
    own = config.series
    if own.source == "series":
        mirrors = sources.mirrors_of(config.model, config.data)
        return sources.stored(key, series, config.data, config.train.accumulate, layout, mirrors)
    given = {"size": own.pool, "days": own.spinup_days, "seed": own.seed}
    return sources.simulated(key, config.model, series, config.data, config.train.accumulate, layout, **given)


def resumed(checkpoints: Checkpoints, config: SurrogateConfig, like: TrainState, data=None) -> tuple:
    """The last state in a folder, onto the shardings of another, that of its data, statistics, best error and step.

    Raises:
        FileError: its settings differ, but for how long the run is and on which devices.
    """
    number = checkpoints.last
    meta = checkpoints.meta(number)
    place = checkpoints.folder / str(number)
    before, normalisation = settings_of(meta, place)
    timing = lambda own: dataclasses.replace(own.train, patience=None, log_every=1)
    free = lambda own: dataclasses.replace(own, title="", train=timing(own), parallel=ParallelConfig())
    wrong = difference(free(before), free(config))
    if wrong:
        was = f"{wrong[0]} = {wrong[1]}, now {wrong[2]}"
        raise FileError(f"{place}: was trained with other settings, {was}; give another --out")
    record.say_versions(meta, place)
    abstract = partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding))
    state = checkpoints.restore(number, abstract(like))
    # step 0 is the start of the data, and all that converted weights have
    data = None if data is None or number == 0 else checkpoints.restore(number, abstract(data), "data")
    return state, data, normalisation, tuple(meta["best"])


def make_validation(
    config: SurrogateConfig, series: Series, part: range, normalisation: Statistics, key, layout: Layout
) -> Callable:
    """A function: weights -> RMSE and persistence [K] and anomaly correlation by lead, over the same samples each time.

    Samples have the first of the lead times; leads that the part is too short for are left out. Where the devices do
    not divide a batch, each forecasts all of it.
    """
    steps = int(dataset.leads(series, config.data)[0])
    leads = min(config.train.validation_leads, (len(part) - 1) // steps)
    samples = len(part) - leads * steps
    batch = min(config.data.batch, samples)
    own = dataclasses.replace(
        config.data, roll_out=leads, lead_hours=config.data.lead_hours[:1], shift=False, batch=batch
    )
    kelvin = jnp.asarray(config.model.kelvin * normalisation.std, jnp.float32)[:, None, None]
    divides = batch % layout.mesh.size == 0
    skill = jax.jit(
        trainer.make_validation(apply_of(config, normalisation), kelvin, layout.mesh if divides else None),
        out_shardings=layout.everywhere,
    )
    joined = jax.jit(lambda params: params, out_shardings=layout.everywhere)
    place = (jax.process_index(), jax.process_count()) if divides else (0, 1)
    cut = NamedSharding(layout.mesh, layout.samples) if divides else layout.everywhere
    count = max(1, min(config.train.validation_batches, samples // batch))

    def validate(params) -> dict[str, float]:
        params = joined(params)
        some = (dataset.batch_at(key, series, own, part, normalisation, i, *place) for i in range(count))
        found = [skill(params, layout.placed(cut, batch)) for batch in some]
        scores = {}
        for name, values in zip(trainer.Skill._fields, zip(*found, strict=True), strict=True):
            values = np.stack(values)
            mean = values.mean(0) if name == "correlation" else np.sqrt((values**2).mean(0))
            scores |= {f"{name}_{k + 1}": float(value) for k, value in enumerate(mean)}
        return scores

    return validate
