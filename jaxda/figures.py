"""The figures of a twin experiment, from the files of its folder: drawn when it ends, and again without a rerun.

`rmse.png` needs scores.csv; `ranks.png`, `spread_skill.png`, `spectra_temperature.png`, `spectra_energy.png` and the
snapshots diagnostics.nc; `plume.png` an analysis.nc with members. What is missing is said, the others are drawn.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxda import config as configuration
from jaxda import diagnostics, experiment, observations, twin
from jaxda.config import ExperimentConfig
from jaxda.output import diagnostics_file, field_plots, reliability_plots, series_plots, spectrum_plots, training_log
from jaxda.output.diagnostics_file import Stored
from jaxda.output.netcdf import FileError, opened, values_of

#: of a run's folder
FOLDER = "figures"
#: part of the cycles at the start that statistics leave out, while filters find the truth [1]
START = 1 / 3
#: figure -> the file that it needs
STANDARD = {
    "rmse": "scores.csv",
    "ranks": diagnostics_file.NAME,
    "spread_skill": diagnostics_file.NAME,
    "spectra_temperature": diagnostics_file.NAME,
    "spectra_energy": diagnostics_file.NAME,
    "snapshot_lower": diagnostics_file.NAME,
    "snapshot_upper": diagnostics_file.NAME,
    "plume": "analysis.nc with output.members",
}


def draw(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Draw what the files of a run's folder allow; returns the figures, and for those that are not there why.

    A folder of a training, with log.csv, has one figure, `training.png`.

    Raises:
        FileError, ValueError: the folder is of neither.
    """
    require_run(folder)
    (folder / FOLDER).mkdir(exist_ok=True)
    if (folder / "log.csv").is_file():
        path = folder / FOLDER / "training.png"
        series_plots.training(path, training_rows(folder / "log.csv"), folder.resolve().name)
        return [path], {}
    config = configuration.read(folder / "config.toml")
    drawn, missing = [], {}
    for names, figure in ((("rmse",), _rmse), (_detailed(config), _details), (("plume",), _plume)):
        try:
            drawn += list(figure(config, folder))
        except FileError as error:
            missing |= dict.fromkeys(names, str(error))
    return drawn, missing


def require_run(folder: Path) -> None:
    """Raise FileError unless a folder looks like one of a run or of a training."""
    if not (folder / "config.toml").is_file():
        raise FileError(f"{folder}: has no config.toml; give the folder of a run of scripts/osse.py or train_vit.py")


def training_rows(path: Path) -> dict[str, np.ndarray]:
    """The columns of a log.csv as numbers, NaN where a cell is empty."""
    rows = training_log.read(path)
    number = lambda text: float(text) if text else np.nan
    try:
        columns = {name: np.array([number(row[name]) for row in rows]) for name in (rows[0] if rows else ())}
        return columns | {name: columns[name] for name in ("step", "loss", "learning_rate")}
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"{path}: lacks a column or a number ({error}); train again with this version") from None


def scores_of(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Experiment -> column -> values (T,) of a scores.csv, `time_h` among them.

    Raises:
        FileError: there is none, or a row is not whole.
    """
    if not path.is_file():
        raise FileError(f"{path}: no such file; the run has not ended a filter yet, go on with it by --resume")
    found: dict[str, dict[str, list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                own = found.setdefault(row.pop("experiment"), {})
                for column, value in row.items():
                    own.setdefault(column, []).append(float(value))
        return {
            name: {column: np.array(own[column]) for column in dict.fromkeys(["time_h", "rmse_a", *own])}
            for name, own in found.items()
        }
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: is no table of scores ({error}); run scripts/osse.py again") from None


def _rmse(config: ExperimentConfig, folder: Path) -> Iterator[Path]:
    path = folder / FOLDER / "rmse.png"
    errors_of(config, scores_of(folder / "scores.csv"), path)
    yield path


def errors_of(config: ExperimentConfig, scores: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Draw analysis errors of `scores_of`; rows without the experiment's shocks have a panel of their own."""
    scores = {name: own for name, own in scores.items() if name in config.filters}
    if not scores:
        raise FileError(f"{path}: scores.csv has no row of an experiment in config.toml; run it again")
    operator, sigma = config.observations.operator, np.asarray(config.observations.sigma)
    sigma = {"identity": config.kelvin * sigma, "scaled": sigma}.get(operator)
    shocked = lambda name: _sees_the_truth(config, name)  # where nothing shocks there is one
    both = {
        "with shocks": {name: own["rmse_a"] for name, own in scores.items() if shocked(name)},
        "without shocks": {name: own["rmse_a"] for name, own in scores.items() if not shocked(name)},
    }
    hours = max((own["time_h"] for own in scores.values()), key=len)
    panels = {panel: own for panel, own in both.items() if own}
    series_plots.rmse_against_time(path, panels, hours, config.unit, sigma, config.title)


def _detailed(config: ExperimentConfig) -> tuple[str, ...]:
    """Names of the figures that diagnostics.nc is needed for."""
    if len(config.model.shape) == 1:
        return ("ranks", "spread_skill", "snapshot")
    return tuple(name for name, file in STANDARD.items() if file == diagnostics_file.NAME)


def _details(config: ExperimentConfig, folder: Path) -> Iterator[Path]:
    members = {name: config.members_of(name) for name in config.filters}
    path = lambda name: folder / FOLDER / f"{name}.png"
    found = diagnostics_file.read(folder / diagnostics_file.NAME, members)
    found = {name: own for name, own in found.items() if np.isfinite(own.mean).all()}
    if not found:
        raise FileError(f"{folder / diagnostics_file.NAME}: holds no analysis that is finite; look at scores.csv")
    title = f"{config.title}, without the first third of the cycles" if config.title else ""
    late = lambda series: series[int(START * len(series)) :]
    ranks = {name: late(own.detail.ranks) for name, own in found.items()}
    design = {name: float(diagnostics.design_effect(own)) if len(own) > 1 else 1.0 for name, own in ranks.items()}
    counts = {name: own.sum(0) for name, own in ranks.items()}
    tests = {n: (counts[n], design[n], diagnostics.flatness(counts[n], design[n])) for n in counts}
    reliability_plots.rank_histograms(path("ranks"), tests, title)
    yield path("ranks")
    skill = {
        name: (diagnostics.SpreadSkill(*(late(part).sum(0) for part in own.detail.skill)), members[name])
        for name, own in found.items()
    }
    reliability_plots.spread_skill(path("spread_skill"), skill, config.unit, title)
    yield path("spread_skill")
    if len(config.model.shape) > 1:
        yield from _spectra(config, {name: late(own.detail.spectra) for name, own in found.items()}, path, title)
    yield from _snapshots(config, found, path)


def _spectra(config: ExperimentConfig, found: Mapping[str, np.ndarray], path: Callable, title: str) -> Iterator[Path]:
    means = {name: own.mean(0) for name, own in found.items() if np.isfinite(own).all()}
    labels = ("variance of temperature at each wavenumber [K²]", "kinetic energy at each wavenumber [m²/s²]")
    for number, (name, label) in enumerate(zip(("spectra_temperature", "spectra_energy"), labels, strict=True)):
        spectra = {own: values[:, number] for own, values in means.items()}
        length = config.model.L
        resolved = {
            own: float(diagnostics.effective_wavelength(parts[2], parts[0], length)) for own, parts in spectra.items()
        }
        if spectra:
            spectrum_plots.of_parts(path(name), spectra, resolved, length, label, title)
            yield path(name)


def _snapshots(config: ExperimentConfig, found: Mapping[str, Stored], path: Callable) -> Iterator[Path]:
    done = {name: len(own.detail.ranks) for name, own in found.items()}
    last = max(done.values())
    found = {name: own for name, own in found.items() if done[name] == last}
    title = f"{config.title}, day {(last - 1) * config.interval_hours / 24:g}"
    scaled = {name: [config.kelvin * own[part] for part in (1, 2, 3)] for name, own in found.items()}
    if len(config.model.shape) == 1:
        shown = {name: field_plots.Shown(*own) for name, own in scaled.items()}
        field_plots.snapshot(path("snapshot"), shown, None, 0.0, title)
        yield path("snapshot")
        return
    first = next(iter(found.values())).truth
    seen = observed(config, first, last - 1)
    for level, boundary in enumerate(("lower", "upper")):
        shown = {name: field_plots.Shown(*(own[level] for own in parts)) for name, parts in scaled.items()}
        name = path(f"snapshot_{boundary}")
        field_plots.snapshot(name, shown, seen[level], config.model.L, f"{title}, {boundary} boundary")
        yield name


def observed(config: ExperimentConfig, truth: np.ndarray, number: int) -> list[field_plots.Seen | None]:
    """What cycle `number` observed of a true state at each boundary, by the experiment's own keys; None: nothing."""
    operator, observe = _network(config)
    observation = observe(twin.keys(_key(config), number).observe, np.asarray(truth, config.precision))
    scale, unit = {"identity": (config.kelvin, "K"), "scaled": (1.0, "K")}.get(config.observations.operator, (1.0, "1"))
    values = np.where(observations.given(observation), scale * observation.values, np.nan)
    if operator.positions is None:
        seen = [field_plots.Seen(own, unit) for own in values]
    else:
        level, y, x = operator.positions.T
        metres = lambda place: (place + 0.5) * 1e3 * config.model.spacing
        at = [(np.rint(level) == number) & np.isfinite(values) for number in range(2)]
        seen = [field_plots.Seen(values[own], unit, metres(x[own]), metres(y[own])) for own in at]
    return [own if np.isfinite(own.values).any() else None for own in seen]


def _network(config: ExperimentConfig) -> tuple[observations.Operator, twin.Observe]:
    operator = observations.make_operator(config.observations, config.model.shape, config.kelvin)
    return operator, observations.make_network(config.observations, operator, dtype=config.precision)


def _key(config: ExperimentConfig) -> jax.Array:
    return experiment.keys(config.seed)["cycles"]


def analyses(
    config: ExperimentConfig, folder: Path, name: str, level: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and analysis mean of one experiment at one boundary, `(T, N, N)` in K or `(T, d)`, and times (T,) [h].

    Raises:
        FileError: analysis.nc is missing or has nothing of the experiment.
        ValueError: there is no such experiment, or its truth, which has no shocks, is not in the file.
    """
    if name not in config.filters:
        raise ValueError(f"--filter {name}: is none of the run's experiments; use one of {', '.join(config.filters)}")
    if not _sees_the_truth(config, name):
        raise ValueError(f"--filter {name}: its truth is without shocks and not in analysis.nc; use another one")
    path = folder / "analysis.nc"
    at = (level,) if len(config.model.shape) > 1 else ()
    stem = "pv" if at else "state"
    with opened(path) as nc:
        names = list(nc["experiment"][:]) if "experiment" in nc.variables else []
        if name not in names:
            raise FileError(f"{path}: has nothing of {name}; run scripts/osse.py again")
        which = names.index(name)
        count = int(values_of(nc["cycles"], path)[which])
        get = lambda what, where: config.kelvin * np.ma.filled(values_of(nc[f"{stem}_{what}"], path, where), np.nan)
        truth = get("truth", (slice(0, count), *at))
        mean = get("mean", (which, slice(0, count), *at))
    count = int(np.isfinite(mean).reshape(count, -1).all(1).cumprod().sum()) if count else 0
    if not count:
        raise FileError(f"{path}: holds no finite analysis of {name}; look at scores.csv")
    return truth[:count], mean[:count], config.interval_hours * np.arange(count)


def _sees_the_truth(config: ExperimentConfig, name: str) -> bool:
    """Whether an experiment sees the truth that is in analysis.nc."""
    return config.filters[name].shocks or config.shocks.kind == "none"


def _plume(config: ExperimentConfig, folder: Path) -> Iterator[Path]:
    """Members at the middle of the upper boundary, of the experiments that see the truth in the file."""
    path, point = folder / "analysis.nc", tuple(size // 2 for size in config.model.shape)
    stem = "pv" if len(point) > 1 else "state"
    with opened(path) as nc:
        if f"{stem}_members" not in nc.variables:
            raise FileError(f"{path}: holds no members; run with --output.members true")
        names, done = list(nc["experiment"][:]), values_of(nc["cycles"], path)
        variable, members = nc[f"{stem}_members"], {}
        for which, name in enumerate(names):
            if name not in config.filters or not done[which]:
                continue
            if not _sees_the_truth(config, name):
                continue
            at = {"experiment": which, "t": slice(0, int(done[which])), "member": slice(0, config.members_of(name))}
            order = [own for own in variable.dimensions if own in at]
            own = np.ma.filled(values_of(variable, path, (*(at[o] for o in order), *point)), np.nan)
            own = own if order[-1] == "member" else own.T
            if np.isfinite(own).all():
                members[name] = config.kelvin * own
        truth = np.ma.filled(values_of(nc[f"{stem}_truth"], path), np.nan)
    if not members:
        raise FileError(f"{path}: holds no finite members; look at scores.csv")
    count = max(map(len, members.values()))
    members = {name: own for name, own in members.items() if len(own) == count}
    truth, seen = truth[:count], np.full(count, np.nan)
    operator, observe = _network(config)
    if operator.positions is None and config.observations.operator != "arctan":
        key, states = _key(config), truth.astype(config.precision)
        one = lambda item: observe(twin.keys(key, item[0]).observe, item[1])
        found = jax.jit(lambda states: jax.lax.map(one, (np.arange(count), states)))(states)
        of_state = config.kelvin if config.observations.operator == "identity" else 1.0
        seen = np.where(observations.given(found), of_state * found.values, np.nan)[:, *point]
    where = f"upper boundary, x = y = {config.model.L / 2e3:g} km" if len(point) > 1 else f"variable {point[0]}"
    label = "temperature [K]" if config.unit == "K" else "x [1]"
    hours = config.interval_hours * np.arange(count)
    title = f"{config.title}, {where}" if config.title else where
    out = folder / FOLDER / "plume.png"
    series_plots.plume(out, members, config.kelvin * truth[:, *point], seen, hours, label, title)
    yield out
