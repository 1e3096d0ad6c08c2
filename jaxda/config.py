"""The experiment file: TOML -> frozen, checked dataclasses. Nothing below this module sees a whole configuration."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, TypeAdapter, ValidationError, field_validator
from pydantic_core import PydanticUndefined

from jaxda import text_files
from jaxda.filters.baselines import ClimatologyConfig, FreeRunConfig, ObservationsOnlyConfig
from jaxda.filters.ensf import EnSFConfig
from jaxda.filters.faults import FaultsConfig
from jaxda.filters.letkf import LETKFConfig
from jaxda.filters.local_score import LocalScoreConfig
from jaxda.filters.own import OwnConfig
from jaxda.models import forcing
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.models.vit import ViTConfig
from jaxda.observations import ObservationConfig
from jaxda.settings import Count, Forecasts, Members, NonNegative, Positive, Seed, described, one_line, settings
from jaxda.training.online import CorrectionConfig, OnlineConfig
from jaxda.twin import InitialConfig, ShockConfig

ModelConfig = Annotated[SQGConfig | Lorenz96Config, Field(discriminator="kind")]
FilterConfig = Annotated[
    LocalScoreConfig
    | LETKFConfig
    | EnSFConfig
    | FreeRunConfig
    | ObservationsOnlyConfig
    | ClimatologyConfig
    | OwnConfig,
    Field(discriminator="kind"),
]
Change = dict[str, float | int | bool]
#: the kinds of forecast that a surrogate takes part in
WITH_WEIGHTS = ("surrogate", "hybrid")
#: settings that name files or folders
PATHS = (("nature", "file"), ("series", "file"), ("surrogate", "folder"), ("surrogate", "correction"))
#: names stand in files, legends and on the command line
Name = Annotated[str, Field(pattern=r"^[\w+ ()%-]+$", max_length=60)]
#: of the sizes of numbers other than 0 and infinity: single precision has little more
LARGEST, SMALLEST = 1e30, 1e-30
#: tables within tables; no settings have more
DEEPEST = 12


@settings
class NatureConfig:
    """Where the truth and the climate come from."""

    file: str | None = described(None, "NetCDF nature run to read; made here if left out")
    spinup_days: NonNegative = described(100.0, "left out at the start, so that the turbulence is developed [day]")
    climate_days: Positive = described(100.0, "after the spin-up, for the climate's mean and variance [day]")
    change: Change = described({}, "settings in which the truth's model differs, for instance { N = 128 }")
    schedule: dict[Literal["U", "r", "tdiab"], forcing.Change] = described({}, "forcing of the truth by time")


#: of a hybrid that starts at no correction: small, since the model has done most
SMALL = ViTConfig(
    patch_size=8, embed_dim=64, depth=2, num_heads=4, decoder_depth=1, overlap=4, aggregation="joint", residual=True,
    dropout=0.0, drop_path=0.0,
)  # fmt: skip


@settings
class CouplingConfig:
    """The surrogates that filters with `forecast = "surrogate"` or `"hybrid"` use."""

    folder: str | None = described(None, "of the surrogate, as scripts/train_vit.py wrote it")
    correction: str | None = described(None, "of a hybrid's trained correction; none: it starts at no correction")
    checkpoint: Literal["best", "last"] = described("best", "which of a folder's checkpoints")
    lead_hours: Positive | None = described(
        None, "of a step; where left out the first of its training that divides a cycle [h]"
    )
    fallback: Literal["model", "analysis"] = described(
        "model", "what stands in for a member that the surrogate fails on: the model's forecast, or its analysis"
    )
    limit: Positive = described(20.0, "standard deviations from the mean of its training beyond which it failed [1]")
    network: ViTConfig = Field(default=SMALL, description="of a hybrid that starts at no correction")

    @field_validator("network", mode="before")
    @classmethod
    def _of_small(cls, given):
        """Fields that are left out are those of the small one, whichever are given."""
        return dataclasses.asdict(SMALL) | given if isinstance(given, dict) else given


@settings
class OutputConfig:
    """What is written beside the scores."""

    fields: bool = described(True, "write analysis.nc: truth, analysis mean and spread")
    format: Literal["netcdf", "zarr"] = described(
        "netcdf", "of these; zarr: analysis.zarr, in chunks by time and member"
    )
    members: bool = described(False, "with all members in it")
    figures: bool = described(True, "draw figures")


@settings
class ExperimentConfig:
    """One twin experiment: a model, a truth, a network, and the filters that run on them."""

    title: str = described("", "shown above the score table")
    seed: Seed = described(0, "of every random number [1]")
    members: Members = described(20, "ensemble size [1]")
    cycles: Count = described(300, "analyses [1]")
    interval_hours: Positive = described(12.0, "time between analyses [h]")
    precision: Literal["float32", "float64"] = described("float32", "floating-point type of everything")
    model: ModelConfig = Field(default_factory=SQGConfig, description="the forecast model")
    forecast: Forecasts = described(
        "model", "what forecasts the members: the model, the truth's own, a surrogate, or the model and a correction"
    )
    forecast_change: Change = described({}, "settings in which the forecast's model is wrong, for instance { U = 27 }")
    surrogate: CouplingConfig = Field(default_factory=CouplingConfig, description="surrogates to forecast with")
    online: OnlineConfig = Field(default_factory=OnlineConfig, description="how a surrogate learns in the cycle")
    online_correction: CorrectionConfig = Field(default_factory=CorrectionConfig, description="how a hybrid does")
    nature: NatureConfig = Field(default_factory=NatureConfig, description="truth and climate")
    shocks: ShockConfig = Field(default_factory=ShockConfig, description="model error as noise in the truth")
    observations: ObservationConfig = Field(default_factory=ObservationConfig, description="network and errors")
    initial: InitialConfig = Field(default_factory=InitialConfig, description="first ensemble")
    filters: dict[Name, FilterConfig] = Field(
        default_factory=lambda: {"local-score": LocalScoreConfig()}, min_length=1, description="name -> filter"
    )
    faults: FaultsConfig = Field(default_factory=FaultsConfig, description="members that fail, filters that diverge")
    output: OutputConfig = Field(default_factory=OutputConfig, description="what is written")

    def __post_init__(self):
        forecast, truth = self.forecast_model, self.truth_model
        for name, change in self.nature.schedule.items():
            for value in change.extremes:
                changed(truth, {name: value}, "nature.schedule")
        if forecast.shape != self.model.shape:
            raise ValueError("forecast_change: the forecast's grid is the experiment's; change N in nature.change")
        for name, model in (("model", forecast), ("nature.change", truth)):
            steps = self.interval_hours / model.step_hours
            if steps < 0.5 or abs(steps - round(steps)) > 1e-6 * steps:
                wrong = f"interval_hours = {self.interval_hours:g} is not a multiple of the time step"
                raise ValueError(f"{wrong} of {name}, {model.step_hours:g} h; change either")
        climate_states = int(self.nature.climate_days * 24 / self.interval_hours)
        needed = max(map(self.members_of, self.filters)) if self.initial.kind == "climatology" else 2
        if climate_states < needed:
            short = f"nature.climate_days = {self.nature.climate_days:g} holds {climate_states} states"
            raise ValueError(f"{short}, {needed} are needed; use at least {needed * self.interval_hours / 24:g}")
        for name, own in self.filters.items():
            if own.online and self.forecast_of(name) not in WITH_WEIGHTS:
                wrong = f'filters.{name}.online = true, but its forecast is the "{self.forecast_of(name)}"'
                raise ValueError(f'{wrong}; use forecast = "surrogate" or "hybrid"')
        if "perfect" in map(self.forecast_of, self.filters) and truth.shape != forecast.shape:
            raise ValueError(
                'forecast = "perfect" needs the truth on the grid of the forecast; leave nature.change.N out'
            )
        if self.shocks.kind == "persistent" and truth.shape != forecast.shape:
            wrong = 'shocks.kind = "persistent" needs the truth on the grid of the forecast'
            raise ValueError(f"{wrong}; leave nature.change.N out")

    def members_of(self, name: str) -> int:
        """Ensemble size of one of the filters."""
        return self.filters[name].members or self.members

    def forecast_of(self, name: str) -> Forecasts:
        """What forecasts the members of one of the filters."""
        return self.filters[name].forecast or self.forecast

    @property
    def forecast_model(self) -> SQGConfig | Lorenz96Config:
        """The model of the forecasts, wrong where `forecast_change` says so."""
        return changed(self.model, self.forecast_change, "forecast_change")

    @property
    def truth_model(self) -> SQGConfig | Lorenz96Config:
        """The model of the truth; where its forcing changes with time, as it is at the first cycle and before."""
        start = {name: float(change.at(0.0)) for name, change in self.nature.schedule.items()}
        return changed(changed(self.model, self.nature.change, "nature.change"), start, "nature.schedule")

    @property
    def kelvin(self) -> float:
        """Scale of the scores: K for one unit of the state, 1 for Lorenz-96."""
        return getattr(self.model, "kelvin", 1.0)

    @property
    def unit(self) -> str:
        """Unit of the scores."""
        return "K" if self.model.kind == "sqg" else "1"


def changed(model, change: Change, name: str):
    """The model's settings with some replaced; a changed N brings its own time step unless that is given too."""
    values = dataclasses.asdict(model)
    if "N" in change:
        values = {k: v for k, v in values.items() if k not in ("dt", "diff_efold")}
    try:
        return type(model)(**values | change)
    except ValidationError as error:
        of_field = "." if error.errors()[0]["loc"] else ": "
        raise ValueError(f"{name}{of_field}{one_line(error)}") from None


def read(path: str | Path, overrides: dict[str, Any] | None = None, kind: type = ExperimentConfig):
    """The experiment, or settings of another kind, of a TOML file, with dotted fields replaced.

    Raises:
        ValueError: one line that names the file or field, the value and the cure.

    Examples:
        >>> config = read("configs/quickstart.toml", {"members": 40, "filters.LETKF.cutoff": 1500.0})
        >>> config.members, config.filters["LETKF"]
        (40, LETKFConfig(cutoff=1500.0))
        >>> read("configs/quickstart.toml", {"cycels": 3})
        Traceback (most recent call last):
            ...
        ValueError: configs/quickstart.toml: cycels = 3: there is no such field; see --help for those there are
    """
    path = Path(path)
    try:
        tree = tomllib.loads(text_files.read(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a TOML file first, such as configs/quickstart.toml") from None
    except (ValueError, OSError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else getattr(error, "strerror", None) or error
        raise ValueError(f"{printable(path)}: not a TOML file: {reason}") from None
    for field, value in (overrides or {}).items():
        _put(tree, field, value)
    _require_sane(tree, str(path))
    for name, field in PATHS:
        table = tree.get(name)
        if isinstance(table, dict) and isinstance(table.get(field), str):
            # in a file relative to the file, on the command line to where one stands; absolute in what is written
            base = Path.cwd() if f"{name}.{field}" in (overrides or {}) else path.parent
            table[field] = str((base / table[field]).resolve())
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
    except ArithmeticError as error:  # settings that are good by themselves
        raise ValueError(f"{path}: its numbers do not go together ({error}); use usual ones") from None


def printable(word) -> str:
    """A word from outside as it may stand in a message of one line."""
    text = str(word)
    return (text if text.isprintable() else ascii(text)[1:-1])[:200]


def _require_sane(tree, place: str, depth: int = 0) -> None:
    """Raise ValueError, with the dotted name, for what no field takes and few programs survive."""
    if isinstance(tree, dict | list):
        if depth > DEEPEST:
            raise ValueError(f"{place[:200]}: tables within tables, over {DEEPEST}; leave it out")
        between = "." if depth else ": "
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            name = str(key)
            if len(name) > 200 or not name.isprintable():
                raise ValueError(f"{place[:200]}: {ascii(name)[:60]} is no name of a field; see --help for those")
            _require_sane(value, f"{place}{between}{name}", depth + 1)
    elif isinstance(tree, str):
        if len(tree) > 4000 or not all(c.isprintable() or c in "\n\t" for c in tree):
            raise ValueError(f"{place} = {ascii(tree)[:60]}: text is too long, or not printable; use other text")
    elif isinstance(tree, int | float) and (0 < abs(tree) < SMALLEST or LARGEST < abs(tree) < math.inf):
        shown = f"{tree:g}" if isinstance(tree, float) else f"a whole number of {tree.bit_length()} bits"
        raise ValueError(f"{place} = {shown}: single precision has no such number; use one nearer to 1")


def write(path: str | Path, config) -> None:
    """The resolved settings as TOML: every field, so that reading it gives the same."""
    Path(path).write_text(tomli_w.dumps(without_none(dataclasses.asdict(config))), encoding="utf-8")


def without_none(tree):
    """Settings as TOML holds them: no entry for None, lists for tuples."""
    if isinstance(tree, dict):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    return list(tree) if isinstance(tree, tuple) else tree


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """`--any.field value` pairs; values are read as TOML, and as text where that fails.

    Raises:
        ValueError: a word where a flag should be, or a flag without a value.

    Examples:
        >>> parse_overrides(["--members", "40", "--shocks.kind", "transient"])
        {'members': 40, 'shocks.kind': 'transient'}
    """
    overrides = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            raise ValueError(f"{printable(word)}: not a flag; fields are given as --field value")
        field, equals, text = word[2:].partition("=")
        value = text if equals else next(words, None)
        if value is None:
            raise ValueError(f"--{printable(field)}: has no value; give one")
        try:
            overrides[field] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            overrides[field] = value
        except ValueError:  # Python reads no whole numbers of thousands of digits
            raise ValueError(
                f"--{printable(field)} {value[:12]}...: has too many digits; use a smaller number"
            ) from None
    return overrides


def _put(tree: dict, field: str, value) -> None:
    *tables, last = field.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ValueError(f"--{field}: {table} is not a table; see --help for the fields there are")
    tree[last] = value


def describe(cls=ExperimentConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every field as (dotted name, default, description with its unit), for `--help`."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        info = field.default
        choices = list(_settings_in(hints[field.name]))
        name = f"{prefix}{field.name}"
        if choices:
            middle = _keys_in(hints[field.name])
            for choice in choices:
                yield from describe(choice, f"{name}{middle}")
            continue
        default = getattr(info, "default", info)
        kinds = typing.get_args(hints[field.name]) if typing.get_origin(hints[field.name]) is Literal else ()
        shown = " | ".join(kinds) if kinds else "" if default in (None, PydanticUndefined) else str(default)
        yield name, shown, getattr(info, "description", None) or ""


def _keys_in(hint) -> str:
    """What stands between the name of a table and those of its fields: a dot, or the keys that a dict may have."""
    if typing.get_origin(hint) is not dict:
        return "."
    return f".{'|'.join(typing.get_args(typing.get_args(hint)[0])) or 'NAME'}."


def _settings_in(hint) -> Iterator[type]:
    """The settings classes inside a type: of unions, annotations and the values of a dict."""
    if dataclasses.is_dataclass(hint):
        yield hint
    elif typing.get_origin(hint) in (typing.Union, types.UnionType, Annotated, dict):
        for part in typing.get_args(hint):
            yield from _settings_in(part)
