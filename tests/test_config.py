"""The experiment file: what it says is what is run, and every mistake in it is one line that names the field."""

import dataclasses
import math
import types
import typing
from pathlib import Path

import pytest

from jaxda import config as configuration
from jaxda.config import ExperimentConfig
from jaxda.filters.baselines import ClimatologyConfig, FreeRunConfig, ObservationsOnlyConfig
from jaxda.filters.ensf import EnSFConfig
from jaxda.filters.faults import FaultsConfig
from jaxda.filters.letkf import LETKFConfig
from jaxda.filters.local_score import LocalScoreConfig
from jaxda.filters.own import OwnConfig
from jaxda.models.forcing import LineConfig, SeasonConfig
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.models.vit import ViTConfig
from jaxda.observations import ObservationConfig
from jaxda.parallel.sharding import ParallelConfig
from jaxda.settings import Parser
from jaxda.training.online import CorrectionConfig, OnlineConfig
from jaxda.twin import InitialConfig, ShockConfig

EVERY = (Path(__file__).parents[1] / "configs").glob("*.toml")
OTHERS = ("vit_", "lorenz96_1e")  # test_train_vit.py, test_lorenz96_scaling.py
CONFIGS = sorted(path for path in EVERY if not path.name.startswith(OTHERS))
SMALL = """
cycles = 3
[model]
kind = "sqg"
N = 16
[filters.LETKF]
kind = "letkf"
cutoff = inf
[filters.EnSF]
kind = "ensf"
members = 6
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


# Reading and writing


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_written_reads_back_the_same(tmp_path, path):
    config = configuration.read(path)
    configuration.write(tmp_path / "resolved.toml", config)
    assert configuration.read(tmp_path / "resolved.toml") == config


FULL = {
    "seed": 3,
    "precision": "float64",
    "forecast_change": {"U": 27, "tdiab": 1.0368e6, "symmetric": False},
    "nature": {
        "spinup_days": 0.5,
        "climate_days": 10,
        "change": {"N": 32},
        "schedule": {
            "r": {"kind": "line", "days": [50, 50], "values": [0, 20.0]},
            "tdiab": {"kind": "season", "mean": 8e5, "amplitude": -3e5, "period_days": 90},
        },
    },
    "shocks": {"kind": "transient", "sizes": [5.0], "probabilities": [0.25]},
    "observations": {"sigma": [1.0, 2.0], "positions": [[0, 1.5, 2.0], [1, 0.0, 3.25]], "redraw": False},
    "initial": {"kind": "climatology"},
    "forecast": "surrogate",
    "surrogate": {"lead_hours": 6.0, "fallback": "analysis", "network": {"embed_dim": 32}},
    "online": {"steps": 3, "parallel": {"strategy": "zero3"}},
    "output": {"members": True, "figures": False},
    "filters.a (b) +5 %.kind": "free-run",
    "filters.LETKF.online": True,
    "filters.EnSF": {"kind": "ensf", "forecast": "perfect", "shocks": False},
    "nature.change.N": 16,
}


def test_a_file_with_everything_in_it_reads_back_the_same(tmp_path, small):
    config = configuration.read(small, FULL)
    configuration.write(tmp_path / "resolved.toml", config)
    assert configuration.read(tmp_path / "resolved.toml") == config
    assert config.filters["LETKF"].cutoff == math.inf
    assert config.observations.positions == ((0, 1.5, 2.0), (1, 0.0, 3.25))
    assert config.observations.sigma == (1.0, 2.0)
    assert [config.forecast_of(name) for name in config.filters] == ["surrogate", "perfect", "surrogate"]
    assert config.filters["LETKF"].online
    assert [own.shocks for own in config.filters.values()] == [True, False, True]
    assert config.online.parallel.strategy == "zero3"
    assert config.surrogate.network == dataclasses.replace(configuration.SMALL, embed_dim=32)
    assert config.nature.schedule == {
        "r": LineConfig(days=(50.0, 50.0), values=(0.0, 20.0)),
        "tdiab": SeasonConfig(mean=8e5, amplitude=-3e5, period_days=90.0),
    }


@pytest.mark.parametrize("overrides", [{}, {"nature.file": "run.nc"}])
def test_a_nature_run_is_found_from_wherever_the_resolved_file_lies(tmp_path, monkeypatch, overrides):
    """In the file it is relative to the file, on the command line to where one stands."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    text = SMALL if overrides else SMALL + '[nature]\nfile = "run.nc"\n'
    Path("configs/small.toml").write_text(text)
    config = configuration.read("configs/small.toml", overrides)
    expected = tmp_path / ("run.nc" if overrides else "configs/run.nc")
    assert Path(config.nature.file).resolve() == expected
    configuration.write("out/config.toml", config)
    again = configuration.read("out/config.toml")
    assert Path(again.nature.file).resolve() == expected
    assert again == config


@pytest.mark.parametrize("overrides", [{}, {"surrogate.folder": "vit", "surrogate.correction": "../fix"}])
def test_surrogates_are_found_from_wherever_the_resolved_file_lies(tmp_path, monkeypatch, overrides):
    (tmp_path / "configs").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    text = SMALL if overrides else SMALL + '[surrogate]\nfolder = "vit"\ncorrection = "../fix"\n'
    Path("configs/small.toml").write_text(text)
    config = configuration.read("configs/small.toml", overrides)
    base = tmp_path / ("." if overrides else "configs")
    configuration.write("out/config.toml", config)
    again = configuration.read("out/config.toml")
    assert again == config
    assert Path(again.surrogate.folder) == (base / "vit").resolve()
    assert Path(again.surrogate.correction) == (base / "../fix").resolve()


# Overrides


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--cycles", "30"], {"cycles": 30}),
        (["--cycles=30"], {"cycles": 30}),
        (["--model.U", "-10.5"], {"model.U": -10.5}),
        (["--filters.LETKF.cutoff", "inf"], {"filters.LETKF.cutoff": math.inf}),
        (["--output.fields", "false"], {"output.fields": False}),
        (["--observations.sigma", "[1.0, 2.0]"], {"observations.sigma": [1.0, 2.0]}),
        (["--nature.change", "{ N = 32 }"], {"nature.change": {"N": 32}}),
        (["--title", "a = b"], {"title": "a = b"}),
        (["--shocks.kind", "transient", "--seed", "5"], {"shocks.kind": "transient", "seed": 5}),
    ],
)
def test_flags_are_read_as_toml_and_else_as_text(words, expected):
    assert configuration.parse_overrides(words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cycles", "30"], "cycles: not a flag"),
        (["--cycles", "30", "members"], "members: not a flag"),
        (["--seed", "1", "--cycles"], "--cycles: has no value"),
    ],
)
def test_flags_without_name_or_value_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        configuration.parse_overrides(words)


def test_overrides_replace_add_and_leave_the_rest(small):
    plain = configuration.read(small)
    config = configuration.read(
        small, {"cycles": 9, "model.U": 20.0, "shocks.kind": "persistent", "filters.free.kind": "free-run"}
    )
    assert (config.cycles, config.model.U, config.model.N, config.shocks.kind) == (9, 20.0, 16, "persistent")
    assert list(config.filters) == ["LETKF", "EnSF", "free"]
    assert config.filters["EnSF"] == plain.filters["EnSF"]
    assert dataclasses.replace(plain, cycles=9) == configuration.read(small, {"cycles": 9})


# What follows from the fields


def test_models_of_truth_and_forecast(small):
    config = configuration.read(small, {"forecast_change.U": 27.0, "nature.change.N": 32})
    assert config.forecast_model == SQGConfig(N=16, U=27.0)
    assert config.truth_model == SQGConfig(N=32)  # with the time step of its own grid
    assert config.model == SQGConfig(N=16)
    given = configuration.read(small, {"nature.change": {"N": 32, "dt": 1200.0}})
    assert given.truth_model == SQGConfig(N=32, dt=1200.0)


def test_a_schedule_decides_how_the_truth_begins(small):
    line = {"kind": "line", "days": [-10, 10], "values": [20, 10]}
    config = configuration.read(small, {"nature.schedule.U": line, "nature.change": {"U": 29.0, "r": 5.0}})
    assert config.truth_model == SQGConfig(N=16, U=15.0, r=5.0)
    assert config.forecast_model == SQGConfig(N=16, U=30.0)


def test_what_forecasts_a_filter_is_its_own_or_the_experiments(small):
    config = configuration.read(small)
    assert {config.forecast_of(name) for name in config.filters} == {"model"}
    config = configuration.read(small, {"forecast": "surrogate", "filters.EnSF.forecast": "model"})
    assert [config.forecast_of(name) for name in ("LETKF", "EnSF")] == ["surrogate", "model"]


def test_sizes_and_units(small):
    config = configuration.read(small)
    assert (config.members_of("LETKF"), config.members_of("EnSF")) == (20, 6)
    assert config.kelvin == pytest.approx(1e-4 * 300.0 / 9.8)
    assert config.unit == "K"
    lorenz = configuration.read(small, {"model": {"kind": "lorenz96"}})
    assert (lorenz.kelvin, lorenz.unit) == (1.0, "1")


# Mistakes

LINE = {"kind": "line", "days": [0, 9], "values": [30, 20]}
SEASON = {"kind": "season", "mean": 1e5, "amplitude": 2e5, "period_days": 90}
BAD = [
    ({"cycle": 3}, ["cycle = 3: there is no such field"]),
    ({"model.n": 64}, ["model.n = 64: there is no such field"]),
    ({"filters.LETKF.radius": 4.0}, ["filters.LETKF.radius = 4.0: there is no such field"]),
    ({"nature.files": ["a.nc"]}, ["nature.files", "there is no such field"]),
    ({"cycles": "many"}, ["cycles = many:", "integer"]),
    ({"cycles": 0}, ["cycles = 0:", "greater than or equal to 1"]),
    ({"cycles": 2.5}, ["cycles = 2.5:", "integer"]),
    ({"cycles": {"x": 3}}, ["cycles:", "integer"]),
    ({"members": 1}, ["members = 1:", "greater than or equal to 2"]),
    ({"interval_hours": -12.0}, ["interval_hours = -12", "greater than 0"]),
    ({"interval_hours": math.nan}, ["interval_hours = nan:"]),
    ({"interval_hours": 13.0}, ["interval_hours = 13 is not a multiple of the time step of model"]),
    ({"interval_hours": 0.1}, ["interval_hours = 0.1 is not a multiple of the time step of model"]),
    ({"precision": "float16"}, ["precision = float16:", "'float32' or 'float64'"]),
    ({"precision": "float\n64"}, ["precision", "'float32' or 'float64'"]),
    ({"title": 3}, ["title = 3:", "string"]),
    ({"model.kind": "qg"}, ["model", "qg", "sqg", "lorenz96"]),
    ({"model": 3}, ["model = 3:"]),
    ({"model": {"N": 16}}, ["model: has no kind; give one"]),
    ({"model.N": 17}, ["model.N = 17: must be even; use 18"]),
    ({"model.N": 20}, ["model: dt has no default for N = 20"]),
    ({"model.dt": 1e5}, ["model: dt = 100000 s is over the CFL limit", "use dt <="]),
    ({"model.U": "fast"}, ["model.U = fast:", "number"]),
    ({"model.f": 0.0}, ["model.f = 0", "greater than 0"]),
    ({"model": {"kind": "lorenz96", "dim": 3}}, ["model.dim = 3:", "greater than or equal to 4"]),
    ({"model": {"kind": "lorenz96", "dt": 0.2}}, ["model: dt = 0.2 is over the stability limit"]),
    ({"forecast_change.N": 32}, ["forecast_change", "change N in nature.change"]),
    ({"forecast_change.V": 3.0}, ["forecast_change.V = 3", "there is no such field"]),
    ({"forecast_change.dt": 1e5}, ["forecast_change", "dt = 100000 s is over the CFL limit"]),
    ({"nature.change.tdiab": -1.0}, ["nature.change.tdiab = -1", "greater than 0"]),
    ({"nature.change.dt": 3500.0}, ["interval_hours = 12 is not a multiple of the time step of nature.change"]),
    ({"nature.schedule.V": LINE}, ["nature.schedule.V = V", "'U', 'r' or 'tdiab'"]),
    ({"nature.schedule.U": 30.0}, ["nature.schedule.U = 30.0"]),
    ({"nature.schedule.U": {"days": [3]}}, ['nature.schedule.U: has no kind; give one, such as kind = "line"']),
    ({"nature.schedule.U": LINE | {"kind": "step"}}, ["nature.schedule.U", "step", "'line', 'season'"]),
    ({"nature.schedule.U": LINE | {"days": [0]}}, ["nature.schedule.U: 1 days for 2 values; give one for one"]),
    ({"nature.schedule.U": LINE | {"values": [0, math.nan]}}, ["nature.schedule.U.values.1 = nan:", "finite"]),
    ({"nature.schedule.U": LINE | {"mean": 3}}, ["nature.schedule.U.mean = 3: there is no such field"]),
    (
        {"nature.schedule.U": LINE | {"values": [30, -300]}},
        ["nature.schedule: dt = 4800 s is over the CFL limit of the jet, U = -300 m/s at N = 16; use dt <= 833"],
    ),
    ({"nature.schedule.r": LINE | {"values": [0, -3]}}, ["nature.schedule.r = -3.0:", "greater than or equal to 0"]),
    ({"nature.schedule.tdiab": SEASON}, ["nature.schedule.tdiab = -100000.0:", "greater than 0"]),
    ({"nature.schedule.tdiab": SEASON | {"period_days": 0}}, ["nature.schedule.tdiab.period_days = 0:"]),
    ({"model": {"kind": "lorenz96"}, "nature.schedule.U": LINE}, ["nature.schedule.U = 30.0: there is no such field"]),
    ({"nature.spinup_days": -5.0}, ["nature.spinup_days = -5"]),
    ({"nature.climate_days": 0.5}, ["nature.climate_days = 0.5 holds 1 states, 2 are needed; use at least 1"]),
    (
        {"initial.kind": "climatology", "nature.climate_days": 9.0},
        ["nature.climate_days = 9 holds 18 states, 20 are needed; use at least 10"],
    ),
    ({"initial.noise": -1.0}, ["initial.noise = -1"]),
    ({"initial.kind": "zero"}, ["initial.kind = zero:", "'climatology'"]),
    (
        {"shocks.kind": "persistent", "nature.change.N": 32},
        ['shocks.kind = "persistent" needs the truth on the grid of the forecast; leave nature.change.N out'],
    ),
    ({"shocks.sizes": [1.0]}, ["shocks: 1 sizes for 4 probabilities"]),
    ({"shocks.probabilities": [0.5] * 4}, ["shocks: probabilities add up to 2"]),
    ({"shocks.probabilities": [0.5, -0.1, 0.1, 0.1]}, ["shocks.probabilities.1 = -0.1:"]),
    ({"observations.operator": "exp"}, ["observations.operator = exp:", "'arctan'"]),
    ({"observations.sigma": -1.0}, ["observations.sigma = -1"]),
    ({"observations.sigma": [1.0, 0.0]}, ["observations.sigma"]),
    ({"observations.fraction": 1.5}, ["observations.fraction = 1.5:", "less than or equal to 1"]),
    ({"observations.spacing": 0}, ["observations.spacing = 0:"]),
    ({"observations": [1, 2]}, ["observations = [1, 2]:"]),
    ({"filters": {}}, ["filters:", "at least 1"]),
    ({"filters": [1]}, ["filters = [1]:"]),
    ({"filters.X.kind": "enkf"}, ["filters.X", "enkf", "letkf"]),
    ({"filters.X.members": 3}, ["filters.X: has no kind; give one"]),
    ({"filters": {"a/b": {"kind": "free-run"}}}, ["filters.a/b"]),
    ({"filters": {"": {"kind": "free-run"}}}, ["filters"]),
    ({"filters.LETKF.cutoff": -1.0}, ["filters.LETKF.cutoff = -1", "greater than 0"]),
    ({"filters.LETKF.cutoff": math.nan}, ["filters.LETKF.cutoff = nan:"]),
    ({"filters.LETKF.rtps": 1.5}, ["filters.LETKF.rtps = 1.5:"]),
    ({"filters.LETKF.members": 1}, ["filters.LETKF.members = 1:"]),
    ({"filters.EnSF.eps_alpha": 1.0}, ["filters.EnSF: eps_alpha = 1"]),
    ({"filters.EnSF.minibatch": 4}, ["filters.EnSF: minibatch = 4"]),
    ({"filters": {"letkf": {"kind": "letkf", "cutoff": 0.0}}}, ["filters.letkf.cutoff = 0"]),
    ({"filters": {"float": {"kind": "free-run", "members": 0}}}, ["filters.float.members = 0:"]),
    ({"forecast": "vit"}, ["forecast = vit:", "'surrogate'"]),
    ({"filters.LETKF.forecast": "vit"}, ["filters.LETKF.forecast = vit:", "'surrogate'"]),
    (
        {"filters.LETKF.online": True},
        ['filters.LETKF.online = true, but its forecast is the "model"; use forecast = "surrogate" or "hybrid"'],
    ),
    (
        {"forecast": "surrogate", "filters.LETKF": {"kind": "letkf", "forecast": "perfect", "online": True}},
        ['filters.LETKF.online = true, but its forecast is the "perfect"'],
    ),
    (
        {"filters.LETKF.forecast": "perfect", "nature.change.N": 32},
        ['forecast = "perfect" needs the truth on the grid of the forecast; leave nature.change.N out'],
    ),
    ({"surrogate.fallback": "none"}, ["surrogate.fallback = none:", "'model' or 'analysis'"]),
    ({"surrogate.lead_hours": 0.0}, ["surrogate.lead_hours = 0", "greater than 0"]),
    ({"surrogate.network.patch_size": 5}, ["surrogate.network: image_size = 64 is not a multiple of patch_size = 5"]),
    ({"online.ema": 1.0}, ["online.ema = 1", "less than 1"]),
    ({"online.hold_every": 1}, ["online.hold_every = 1:", "greater than or equal to 2"]),
    ({"online.window": 15}, ["online: guard = 4 of every 4th cycle do not fit into window = 15; use at least 16"]),
    ({"online.parallel.strategy": "zero4"}, ["online.parallel.strategy = zero4:"]),
    ({"output.fields": "perhaps"}, ["output.fields = perhaps:"]),
    ({"cycles.x": 3}, ["--cycles.x", "cycles is not a table"]),
    ({"cycles": 0, "members": 0, "title": 3}, ["; and 2 more"]),
]


def refusal_of(path, overrides=None):
    with pytest.raises(ValueError, match=r"\S") as caught:
        configuration.read(path, overrides)
    message = str(caught.value)
    assert type(caught.value) is ValueError  # not pydantic's, which has lines and lines
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[" ".join(map(str, bad)) for bad, _ in BAD])
def test_a_mistake_is_one_line_that_names_the_field(small, overrides, words):
    message = refusal_of(small, overrides)
    missing = [word for word in words if word not in message]
    assert not missing, message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cycles 3", ["not a TOML file", "line 1"]),
        ("cycles = 3\ncycles = 4", ["not a TOML file", "overwrite"]),
        (b"title = '\xff'", ["not a TOML file"]),
        (b"\x89HDF\r\n\x1a\n\0", ["not a TOML file"]),
        ("filters = 3", ["filters = 3"]),
        ("[[filters]]\nkind = 'letkf'", ["filters"]),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "odd.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal_of(path)
    assert all(word in message for word in [str(path), *words]), message


def test_what_is_no_file_is_refused_by_name(tmp_path):
    assert str(tmp_path / "none.toml") + ": no such file" in refusal_of(tmp_path / "none.toml")
    assert str(tmp_path) in refusal_of(tmp_path)


# The list of fields

CLASSES = {
    "": [ExperimentConfig],
    "model.": [SQGConfig, Lorenz96Config],
    "nature.": [configuration.NatureConfig],
    "nature.schedule.U|r|tdiab.": [LineConfig, SeasonConfig],
    "shocks.": [ShockConfig],
    "observations.": [ObservationConfig],
    "initial.": [InitialConfig],
    "filters.NAME.": [
        LocalScoreConfig,
        LETKFConfig,
        EnSFConfig,
        FreeRunConfig,
        ObservationsOnlyConfig,
        ClimatologyConfig,
        OwnConfig,
    ],
    "faults.": [FaultsConfig],
    "output.": [configuration.OutputConfig],
    "surrogate.": [configuration.CouplingConfig],
    "surrogate.network.": [ViTConfig],
    "online.": [OnlineConfig],
    "online.parallel.": [ParallelConfig],
    "online_correction.": [CorrectionConfig],
    "online_correction.parallel.": [ParallelConfig],
}
TABLES = {*(prefix.split(".")[0] for prefix in CLASSES), "nature.schedule", "surrogate.network"}
TABLES |= {"online.parallel", "online_correction.parallel"}


def numbers_in(hint):
    """Whether a value of this type may be a number."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated, tuple):
        return any(numbers_in(part) for part in typing.get_args(hint))
    return hint in (int, float)


def test_an_empty_file_is_an_experiment_with_the_filter_to_start_with(tmp_path):
    (tmp_path / "a.toml").write_text("")
    assert configuration.read(tmp_path / "a.toml").filters == {"local-score": LocalScoreConfig()}


@pytest.mark.parametrize(
    "words", ["x.toml --seed 3 --model.N=32", "--seed 3 x.toml --model.N=32", "--seed 3 --model.N=32 x.toml"]
)
@pytest.mark.parametrize("own", ["--out d {}", "{} --out d"])
def test_fields_may_come_before_the_file(words, own):
    parser = Parser("some.py", "")
    parser.add_argument("config")
    parser.add_argument("--out")
    given, rest = parser.parse_known_args(own.format(words).split())
    assert (given.config, given.out) == ("x.toml", "d")
    assert configuration.parse_overrides(rest) == {"seed": 3, "model.N": 32}
    with pytest.raises(ValueError, match="unrecognized arguments: --seed 3"):
        parser.parse_args(["x.toml", "--seed", "3"])
    with pytest.raises(ValueError, match="required: config"):
        parser.parse_known_args(["--seed", "x.toml"])


def test_every_field_is_described_with_its_unit():
    described = list(configuration.describe())
    expected = []
    for prefix, classes in CLASSES.items():
        for cls in classes:
            for name, hint in typing.get_type_hints(cls, include_extras=True).items():
                if prefix + name in TABLES:
                    continue
                expected.append(prefix + name)
                texts = [text for found, _, text in described if found == prefix + name]
                assert texts, f"{prefix}{name} is not listed"
                assert all(texts), f"{prefix}{name} has no description"
                if numbers_in(hint):
                    assert all("[" in text and "]" in text for text in texts), f"{prefix}{name} has no unit"
    assert sorted(name for name, _, _ in described) == sorted(expected)


def test_defaults_and_choices_are_shown():
    rows = {name: (default, text) for name, default, text in configuration.describe()}
    assert rows["cycles"] == ("300", "analyses [1]")
    assert rows["model.N"][0] == "64"
    assert rows["precision"][0] == "float32 | float64"
    assert rows["filters.NAME.stop"][0] == "0.5"
    assert rows["nature.file"][0] == ""
