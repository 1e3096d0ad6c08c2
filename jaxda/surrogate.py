"""A surrogate from a configuration to checkpoints: series -> samples -> steps, validated and saved on the way."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from jaxda import __version__
from jaxda.models import sqg, vit
from jaxda.models.sqg import SQGConfig
from jaxda.models.vit import ViTConfig
from jaxda.numerics import timestep
from jaxda.output import netcdf
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.settings import NonNegative, Positive, Seed, described, one_line, settings
from jaxda.training import dataset, trainer
from jaxda.training.dataset import DataConfig, Series, Statistics
from jaxda.training.trainer import TrainConfig, TrainState


@settings
class SeriesConfig:
    """Where the states come from."""

    file: str | None = described(None, "NetCDF nature run to read; made here if left out")
    spinup_days: NonNegative = described(100.0, "left out at the start of a series made here [day]")
    days: Positive = described(600.0, "length of a series made here [day]")
    interval_hours: Positive = described(3.0, "between its states [h]")
    seed: Seed = described(0, "of its first state [1]")


@settings
class SurrogateConfig:
    """One training: the model to learn, its series, the architecture, the samples and the optimizer."""

    title: str = described("", "shown above the scores")
    model: SQGConfig = Field(default_factory=SQGConfig, description="the model to learn")
    series: SeriesConfig = Field(default_factory=SeriesConfig, description="its states")
    vit: ViTConfig = Field(default_factory=ViTConfig, description="architecture")
    data: DataConfig = Field(default_factory=DataConfig, description="samples")
    train: TrainConfig = Field(default_factory=TrainConfig, description="optimizer and run")

    def __post_init__(self):
        if (self.vit.variables, self.vit.image_size, self.vit.image_size) != self.model.shape:
            raise ValueError(
                f"vit.image_size = {self.vit.image_size} and vit.variables = {self.vit.variables} are not the grid of "
                f"the model, N = {self.model.N} and 2 boundaries; make them equal"
            )


def make_series(config: SurrogateConfig, report: Callable[[float], None] = lambda days: None) -> Series:
    """The states of the file, read as they are needed, or of the model, in memory; `report` is told the days made.

    Raises:
        FileError, ValueError: a file of another grid or that cannot be read, times that are not evenly spaced, states
            that are not finite.
    """
    own = config.series
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
    advance = sqg.make_advance(config.model, round(steps))
    per_day = 24.0 / own.interval_hours
    spinup, count, chunk = round(own.spinup_days * per_day), round(own.days * per_day), 40
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


def apply_of(config: ViTConfig) -> Callable:
    """The model as training and forecasts call it."""
    return lambda params, x, lead_time, key=None: vit.apply(config, params, x, lead_time, key=key)


def meta_of(config: SurrogateConfig, normalisation: Statistics) -> dict:
    """What a checkpoint needs beside its arrays: settings, statistics, version."""
    plain = dataclasses.asdict(config)
    own = {"mean": normalisation.mean.tolist(), "std": normalisation.std.tolist()}
    return {"version": __version__, "settings": plain, "statistics": own}


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
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> dict:
    """Train from the last checkpoint in `out`, or from the start, and return the row of the best validation.

    Writes `out/checkpoints` and `out/log.csv`, a row for each validation. `report` is told each step and its loss.

    Raises:
        ValueError: samples that cannot be made, a checkpoint with other settings, or a loss that is not finite; the
            checkpoint from before that stays.
    """
    parts = dataset.split(series, config.data)
    dataset.steps_per_epoch(series, config.data, parts.train)
    normalisation = dataset.statistics(series, parts.train)
    apply, key = apply_of(config.vit), jax.random.key(config.train.seed)
    key_init, key_data, key_train, key_validation = jax.random.split(key, 4)
    make_state = lambda: trainer.init_state(config.train, vit.init(key_init, config.vit))
    meta = meta_of(config, normalisation)
    step = jax.jit(trainer.make_train_step(config.train, apply), donate_argnums=0)
    validate = make_validation(config, series, parts.validation, normalisation, key_validation)
    rows: list[dict] = []
    with Checkpoints(out / "checkpoints") as checkpoints:
        state, best = jax.jit(make_state)(), (math.inf, 0)
        if checkpoints.last is not None:
            state, best = resumed(checkpoints, config, state)
        began = time.perf_counter()
        batches = dataset.prefetched(_batches(config, series, parts.train, normalisation, key_data, int(state.step)))
        for number, some in zip(range(int(state.step), config.train.steps), batches):
            state, metrics = step(state, some, key_train)
            loss = float(metrics.loss)
            if not bool(metrics.finite):
                checkpoints.save(number, state, meta | {"best": list(best)}, best[0])
                raise ValueError(
                    f"train.learning_rate = {config.train.learning_rate:g}: the loss is {loss:g} at step {number}; "
                    f"the state before it is saved; use a smaller rate or train.clip"
                )
            report(number + 1, loss)
            if (number + 1) % config.train.validate_every and number + 1 < config.train.steps:
                continue
            row = {"step": number + 1, "loss": loss, "learning_rate": float(metrics.learning_rate)}
            row |= {"seconds": time.perf_counter() - began} | validate(state.average)
            rows.append(row)
            _append(out / "log.csv", row)
            error = row["rmse_1"]
            best = (error, number + 1) if error < best[0] else best
            checkpoints.save(number + 1, state, meta | {"best": list(best)}, error)
            late = (number + 1 - best[1]) // config.train.validate_every
            if config.train.patience is not None and late >= config.train.patience:
                break
    return min(rows, key=lambda row: row["rmse_1"]) if rows else {"step": int(state.step), "rmse_1": best[0]}


def resumed(checkpoints: Checkpoints, config: SurrogateConfig, like: TrainState) -> tuple[TrainState, tuple]:
    """The last state in a folder, onto the shardings of another, and its best error and step.

    Raises:
        FileError: its settings differ, but for how long the run is.
    """
    number = checkpoints.last
    meta = checkpoints.meta(number)
    place = checkpoints.folder / str(number)
    before, _ = settings_of(meta, place)
    free = lambda own: dataclasses.replace(own, title="", train=dataclasses.replace(own.train, patience=None))
    for part in dataclasses.fields(SurrogateConfig):
        was, now = (getattr(free(own), part.name) for own in (before, config))
        if was != now:
            raise FileError(
                f"{place}: was trained with other settings, {_difference(part.name, was, now)}; give another --out"
            )
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
    return checkpoints.restore(number, abstract), tuple(meta["best"])


def _difference(name: str, was, now) -> str:
    if not dataclasses.is_dataclass(was):
        return f"{name} = {was}, now {now}"
    field = next(f.name for f in dataclasses.fields(was) if getattr(was, f.name) != getattr(now, f.name))
    return f"{name}.{field} = {getattr(was, field)}, now {getattr(now, field)}"


def _batches(config, series, part, normalisation, key, first):
    """Batches of the steps from `first` on, `accumulate` of them stacked."""
    number = first * config.train.accumulate
    while True:
        some = [
            dataset.batch_at(key, series, config.data, part, normalisation, number + i)
            for i in range(config.train.accumulate)
        ]
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *some)
        number += config.train.accumulate


def make_validation(config: SurrogateConfig, series: Series, part: range, normalisation: Statistics, key) -> Callable:
    """A function: weights -> RMSE and persistence [K] and anomaly correlation by lead, over the same samples each time.

    Samples have the first of the lead times; leads that the part is too short for are left out.
    """
    steps = int(dataset.leads(series, config.data)[0])
    leads = min(config.train.validation_leads, (len(part) - 1) // steps)
    samples = len(part) - leads * steps
    batch = min(config.data.batch, samples)
    own = dataclasses.replace(
        config.data, roll_out=leads, lead_hours=config.data.lead_hours[:1], shift=False, batch=batch
    )
    kelvin = config.model.kelvin * normalisation.std
    skill = jax.jit(trainer.make_validation(apply_of(config.vit), jnp.asarray(kelvin, jnp.float32)[:, None, None]))
    count = max(1, min(config.train.validation_batches, samples // batch))

    def validate(params) -> dict[str, float]:
        found = [skill(params, dataset.batch_at(key, series, own, part, normalisation, i)) for i in range(count)]
        scores = {}
        for name, values in zip(trainer.Skill._fields, zip(*found, strict=True), strict=True):
            values = np.stack(values)
            mean = values.mean(0) if name == "correlation" else np.sqrt((values**2).mean(0))
            scores |= {f"{name}_{k + 1}": float(value) for k, value in enumerate(mean)}
        return scores

    return validate


def _append(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
