"""A simulator of what a real-time run is fed with: the observations of a twin experiment as files, some disturbed.

The observations are those of the experiment of the same configuration (`jaxda.twin.cycle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxda import observations, twin
from jaxda.config import ExperimentConfig
from jaxda.experiment import World
from jaxda.output import netcdf, observation_file, product_file
from jaxda.output.atomic import replacing
from jaxda.output.netcdf import FileError
from jaxda.output.observation_file import Observations

#: what may happen to a file, and how
DISTURBANCES = {
    "late": "comes after the file that follows it",
    "duplicate": "comes again, under another name, after the file that follows it",
    "missing": "does not come",
    "corrupt": "is cut off in the middle",
    "outside": "has an observation outside of the domain",
    "window": "has a time between two analyses",
    "nan": "has a value that is not a number",
    "grid": "has observations between the points of the grid",
    "empty": "has no bytes",
}


class Delivery(NamedTuple):
    """A file with the observations of `cycle`, sent at the time of cycle `slot`; `kind`: "" or a disturbance."""

    slot: int
    cycle: int
    kind: str


def plan(cycles: int, kinds: Iterable[str], seed: int, share: float = 0.1) -> list[Delivery]:
    """What is sent, in order: of every kind a share of the cycles, at least one, drawn at random; never the first.

    Raises:
        ValueError: a kind that there is not, or more disturbances than cycles.
    """
    kinds = list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in DISTURBANCES:
            raise ValueError(f"--disturb {kind}: not one of {', '.join(DISTURBANCES)}")
    each = max(1, int(share * cycles))
    if each * len(kinds) > cycles - 1:
        raise ValueError(f"--disturb: {len(kinds)} kinds need {each * len(kinds) + 1} cycles, there are {cycles}")
    chosen = 1 + np.random.default_rng(seed).permutation(cycles - 1)[: each * len(kinds)]
    kind_of = dict(zip(chosen.tolist(), [kind for kind in kinds for _ in range(each)], strict=True))
    deliveries = []
    for cycle in range(cycles):
        kind = kind_of.get(cycle, "")
        if kind == "late":
            deliveries.append(Delivery(cycle + 1, cycle, kind))
        elif kind == "duplicate":
            deliveries += [Delivery(cycle, cycle, ""), Delivery(cycle + 1, cycle, kind)]
        elif kind != "missing":
            deliveries.append(Delivery(cycle, cycle, kind))
    return sorted(deliveries, key=lambda one: (one.slot, one.slot - one.cycle))  # in a slot its own cycle first


def name_of(time: float) -> str:
    """The name of a file of observations at `time` [s of the model]."""
    return f"observations_{round(time):010d}.nc"


def file_of(config: ExperimentConfig, delivery: Delivery) -> str:
    """The name of the file of a delivery."""
    name = Path(name_of(3600.0 * config.interval_hours * delivery.cycle))
    return name.with_stem(f"{name.stem}_again").name if delivery.kind == "duplicate" else name.name


def make_observations(config: ExperimentConfig, world: World) -> Callable[[int], Observations]:
    """Number of a cycle -> what is observed of its truth."""
    shape = world.operator.values_shape
    positions = world.operator.positions
    sites = np.indices(shape).reshape(len(shape), -1).T if positions is None else positions
    observe = jax.jit(world.observe)

    def of_cycle(number: int) -> Observations:
        found = observe(twin.keys(world.key, number).observe, world.truth[number])
        there = np.asarray(observations.given(found)).reshape(-1)
        values, precision = (np.asarray(part).reshape(-1)[there] for part in found)
        return Observations(
            3600.0 * config.interval_hours * number, values, precision**-0.5, sites[there].astype(float)
        )

    return of_cycle


def deliver(folder: Path, config: ExperimentConfig, delivery: Delivery, found: Observations) -> Path:
    """Write the file of a delivery; FileError where there is one of its name."""
    path = folder / file_of(config, delivery)
    operator, interval = config.observations.operator, 3600.0 * config.interval_hours
    if delivery.kind == "outside":
        positions = found.positions.copy()
        positions[0, -1] += config.model.N
        found = found._replace(positions=positions)
    elif delivery.kind == "grid":
        found = found._replace(positions=found.positions + np.array([0.0, 0.25, 0.25]))
    elif delivery.kind == "nan":
        found = found._replace(values=np.where(np.arange(len(found.values)) == 0, np.nan, found.values))
    elif delivery.kind == "window":
        found = found._replace(time=found.time + 0.4 * interval)
    if path.exists():
        raise FileError(f"{path}: exists already; give another folder, or move it away")
    if delivery.kind == "empty":
        path.touch()
        return path
    if delivery.kind != "corrupt":
        observation_file.write(path, config.model, operator, found)
        return path
    whole = path.with_suffix(".whole")  # a name that nobody watches
    observation_file.write(whole, config.model, operator, found)
    content = whole.read_bytes()
    with replacing(path) as hidden:
        hidden.write_bytes(content[: len(content) // 2])
    whole.unlink()
    return path


def write_truth(path: Path, config: ExperimentConfig, world: World) -> None:
    """The truth as a nature run, whose times are those of the analyses; FileError where the file exists."""
    netcdf.create_nature_run(path, config.model, dtype=world.truth.dtype, history=netcdf.dated("scripts/feed.py"))
    times = 3600.0 * config.interval_hours * np.arange(len(world.truth))
    netcdf.append_states(path, times, np.asarray(world.truth))


def scores(run: Path, truth: Path) -> Iterator[tuple[float, float, float]]:
    """Time [h], and RMSE [K] of analysis and of the forecast from it (NaN: none) for each product of a run.

    Raises:
        FileError: no products, or files that cannot be read.
    """
    nature = netcdf.read_nature_run(truth)
    number_of = {round(time): number for number, time in enumerate(nature.times)}
    products = sorted(run.glob("analysis_*.nc"))
    if not products:
        raise FileError(f"{run}: holds no analysis_*.nc; give a folder that scripts/realtime.py wrote")

    def error(time: float, field: np.ndarray) -> float:
        number = number_of.get(round(time))
        if number is None:
            return float("nan")
        state = netcdf.read_states(nature, number, number + 1)[0]
        if state.shape != field.shape:
            raise FileError(f"{truth}: states have shape {state.shape}, those of {run} {field.shape}; give its truth")
        return nature.config.kelvin * float(np.sqrt(np.mean((field - state) ** 2)))

    for path in products:
        times, fields = product_file.read(path, ("analysis_mean", "forecast_mean"))
        yield (
            times["t"] / 3600.0,
            error(times["t"], fields["analysis_mean"]),
            error(times["t_forecast"], fields["forecast_mean"]),
        )
