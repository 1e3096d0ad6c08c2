"""scripts/osse.py: the folder that a run leaves, what may not change it, and how bad input is refused."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import importlib.util
import io
import json
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import calling
import jax
import netCDF4
import numpy as np
import pytest
import xarray
from jax.experimental.compilation_cache import compilation_cache

from jaxda import config as configuration
from jaxda import experiment, twin
from jaxda.filters import baselines
from jaxda.models import sqg
from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf, report

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "osse.py"
COLUMNS = ["experiment", "cycle", "time_h", "rmse_b", "rmse_a", "spread_b", "spread_a", "crps_a"]
HEADER = [*COLUMNS, "bias_a", "coverage_a", "chi_square", "rejected", "replaced", "lost", "flagged"]
SQG = """
title = "small turbulence"
members = 6
cycles = 4
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 5.0
climate_days = 5.0
[output]
members = true
[filters.LETKF]
kind = "letkf"
cutoff = 3000.0
[filters."data (4)"]
kind = "observations-only"
members = 4
"""
LORENZ_WORLD = """
members = 6
cycles = 7
interval_hours = 6.0
[model]
kind = "lorenz96"
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
noise = 1.0
[observations]
operator = "arctan"
sigma = 0.1
fraction = 0.8
[shocks]
kind = "persistent"
sizes = [1.0]
probabilities = [0.3]
"""
LORENZ = (
    LORENZ_WORLD
    + """
[filters.free-run]
kind = "free-run"
[filters.observations]
kind = "observations-only"
[filters.climatology]
kind = "climatology"
[filters.LETKF]
kind = "letkf"
cutoff = inf
[filters.EnSF]
kind = "ensf"
integrator = "exponential"
steps = 20
tolerance = 0.0
"""
)


osse = calling.script("osse")


@pytest.fixture(scope="module", autouse=True)
def settings_of_jax(tmp_path_factory):
    """The script sets JAX up for a process of its own; here its runs share one, and what was compiled for them."""
    cache = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in [*cache, "jax_enable_x64"]}
    for name, value in cache.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


run = partial(calling.call, osse)


def contents(folder):
    """The files of a run, without its checkpoints."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("checkpoints/")}


def series_of(folder):
    """scores.csv as experiment -> column -> values of all cycles."""
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = dict.fromkeys(row["experiment"] for row in rows)
    return {
        name: {c: np.array([float(row[c]) for row in rows if row["experiment"] == name]) for c in HEADER[1:]}
        for name in names
    }


@pytest.fixture(scope="module")
def turbulence(tmp_path_factory):
    """A finished SQG run: its configuration file, its folder, what it printed."""
    folder = tmp_path_factory.mktemp("sqg")
    (folder / "small.toml").write_text(SQG)
    status, out, _ = run(folder / "small.toml", "--out", folder / "run")
    assert status == 0
    return folder / "small.toml", folder / "run", out


@pytest.fixture(scope="module")
def lorenz(tmp_path_factory):
    """The same with every kind of filter on Lorenz-96, in an empty folder that is there already, with flags."""
    folder = tmp_path_factory.mktemp("lorenz96")
    (folder / "small.toml").write_text(LORENZ)
    (folder / "run").mkdir()
    status, out, _ = run(folder / "small.toml", "--out", folder / "run", "--output.members", "false", "--cycles=9")
    assert status == 0
    return folder / "small.toml", folder / "run", out


BOTH = pytest.mark.parametrize("finished", ["turbulence", "lorenz"])
FILES = {"SHA256SUMS", "config.toml", "record.json", "scores.csv", "scores.json", "analysis.nc", "diagnostics.nc"}
FILES |= {f"figures/{name}.png" for name in ("rmse", "ranks", "spread_skill")}
OF_FIELDS = ("snapshot_lower", "snapshot_upper", "spectra_energy", "spectra_temperature", "plume")


# What a run leaves


@pytest.mark.parametrize(
    ("finished", "figures"),
    [
        ("turbulence", {f"figures/{name}.png" for name in OF_FIELDS}),
        ("lorenz", {"figures/snapshot.png"}),
    ],
)
def test_a_run_leaves_these_files(request, finished, figures):
    _, folder, _ = request.getfixturevalue(finished)
    files = contents(folder)
    assert set(files) == FILES | figures
    for name in files:
        if name.endswith(".png"):
            assert files[name].startswith(b"\x89PNG")
            assert len(files[name]) > 10_000


@BOTH
def test_the_resolved_configuration_is_what_was_run(request, finished):
    path, folder, _ = request.getfixturevalue(finished)
    overrides = {"cycles": 9, "output.members": False} if finished == "lorenz" else {}
    config = configuration.read(path, overrides)
    assert configuration.read(folder / "config.toml") == config
    explicit = tomllib.loads((folder / "config.toml").read_text())
    assert explicit["model"]["dt"] == config.model.dt  # defaults too
    assert explicit["filters"]["LETKF"]["inflation"] == 1.0


@BOTH
def test_scores_have_a_row_for_each_experiment_and_cycle(request, finished):
    _, folder, _ = request.getfixturevalue(finished)
    config = configuration.read(folder / "config.toml")
    with (folder / "scores.csv").open(newline="") as file:
        assert next(csv.reader(file)) == HEADER
    series = series_of(folder)
    assert list(series) == list(config.filters)
    for scores in series.values():
        np.testing.assert_array_equal(scores["cycle"], np.arange(config.cycles))
        np.testing.assert_array_equal(scores["time_h"], config.interval_hours * np.arange(config.cycles))
        assert all(np.isfinite(values).all() for values in scores.values())
        assert all((values >= 0).all() for name, values in scores.items() if name != "bias_a")


@BOTH
def test_json_says_the_same_and_with_what_it_was_made(request, finished):
    _, folder, _ = request.getfixturevalue(finished)
    config = configuration.read(folder / "config.toml")
    found = json.loads((folder / "scores.json").read_text())
    series = series_of(folder)
    assert list(found["scores"]) == list(series)
    last = max(1, round(config.cycles / 3))
    for name, scores in found["scores"].items():
        assert scores["status"] == "ok"
        assert scores["wall_seconds"] > 0
        assert scores["rejected"] == series[name]["rejected"].sum()
        assert 0 < scores["seconds_per_cycle"] <= scores["wall_seconds"]
        for column in COLUMNS[3:]:
            values = series[name][column]
            np.testing.assert_allclose(scores["all"][column], values.mean(), rtol=2e-5)
            np.testing.assert_allclose(scores["last_third"][column], values[-last:].mean(), rtol=2e-5)
    settings = json.dumps(dataclasses.asdict(config)).replace("Infinity", '"inf"')
    assert found["settings"] == json.loads(settings)
    for package in ("jaxda", "jax", "jaxlib", "numpy", "netCDF4"):
        assert found["versions"][package] == importlib.metadata.version(package)
    assert {"python", "device"} <= set(found["versions"])


def test_json_is_json_where_settings_are_infinite(lorenz):
    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    json.loads((lorenz[1] / "scores.json").read_text(), parse_constant=refuse)


def test_analyses_are_those_that_were_scored(turbulence):
    _, folder, _ = turbulence
    kelvin = SQGConfig().kelvin
    with xarray.open_dataset(folder / "analysis.nc", decode_times=False) as data:
        assert dict(data.sizes) == {"experiment": 2, "t": 4, "member": 6, "z": 2, "y": 16, "x": 16}
        assert list(data.experiment.values) == ["LETKF", "data (4)"]
        np.testing.assert_array_equal(data.t, 12 * 3600 * np.arange(4))
        error = np.sqrt(((data.pv_mean - data.pv_truth) ** 2).mean(["z", "y", "x"])) * kelvin
        spread = np.sqrt((data.pv_spread**2).mean(["z", "y", "x"])) * kelvin
        for name, scores in series_of(folder).items():
            np.testing.assert_allclose(error.sel(experiment=name), scores["rmse_a"], rtol=1e-4)
            np.testing.assert_allclose(spread.sel(experiment=name), scores["spread_a"], rtol=1e-4)
        members = data.pv_members.sel(experiment="data (4)")
        assert (members.notnull().all(["z", "y", "x"]) == (data.member < 4)).all()  # it has four
        scale = float(np.abs(data.pv_mean).max())
        np.testing.assert_allclose(data.pv_members.mean("member"), data.pv_mean, atol=1e-5 * scale)


def errors_in(folder, sizes):
    """Of the analysis means of Lorenz-96 in analysis.nc, at each experiment and time."""
    with xarray.open_dataset(folder / "analysis.nc", decode_times=False) as data:
        assert dict(data.sizes) == sizes
        return np.sqrt(((data.state_mean - data.state_truth) ** 2).mean("x", skipna=False)).load()


def test_analyses_of_lorenz96(lorenz):
    _, folder, _ = lorenz
    series, errors = series_of(folder), errors_in(folder, {"experiment": 5, "t": 9, "x": 40})
    for name, scores in series.items():
        np.testing.assert_allclose(errors.sel(experiment=name), scores["rmse_a"], rtol=1e-4)


@BOTH
def test_the_score_table_is_printed(request, finished):
    _, folder, out = request.getfixturevalue(finished)
    found = json.loads((folder / "scores.json").read_text())["scores"]
    for name, scores in found.items():
        row = next(line for line in out.splitlines() if f" {name} " in line)
        last = scores["last_third"]
        ratio = last["spread_a"] / last["rmse_a"]
        numbers = [scores["all"]["rmse_a"], last["rmse_a"], ratio, last["crps_a"], last["rmse_b"]]
        found_numbers = [float(text) for text in re.findall(r"\d+\.\d{3}", row)[:5]]
        np.testing.assert_allclose(found_numbers, numbers, atol=0.00051)  # of three decimals
        assert " ok " in row
    unit = "K" if finished == "turbulence" else "1"
    for column in (f"RMSE [{unit}]", f"RMSE, last third [{unit}]", "spread/RMSE", f"CRPS [{unit}]"):
        assert column in out
    assert ("small turbulence" in out) == (finished == "turbulence")
    assert str(folder) in out.replace("\n", "")


@pytest.mark.parametrize("worst", [0, 3])
def test_rejected_observations_are_in_the_table_where_there_are_any(worst):
    series = np.ones(4)
    counts = {name: np.zeros(4) for name in report.COUNTS} | {"rejected": np.array([0, 0, worst, 0])}
    scores = twin.Scores(**dict.fromkeys(twin.Scores._fields, series) | counts)
    records = {"EnSF": experiment.Record(scores, "ok", 1.0, 0.1)}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        osse.report.print_lines([osse.report.score_table("", records, "K")])
    assert ("rejected" in out.getvalue()) == (worst > 0)
    assert bool(re.search(r" 3 .* ok ", out.getvalue())) == (worst > 0)


def test_rejections_of_a_forecast_that_is_not_finite_are_not_counted():
    counts = {name: np.zeros(3) for name in report.COUNTS} | {"rejected": np.array([2.0, 40.0, np.nan])}
    scores = twin.Scores(**dict.fromkeys(twin.Scores._fields, np.array([1.0, np.nan, np.nan])) | counts)
    assert experiment.Record(scores, "non-finite", 1.0, 0.1).total("rejected") == 2


def test_brackets_in_titles_and_folders_are_printed_as_they_are():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        osse.report.print_lines([osse.report.score_table("a [b] and [/c]", {}, "K"), "written to runs[1]/[/d]"])
    assert "a [b] and [/c]" in out.getvalue()
    assert "written to runs[1]/[/d]" in out.getvalue()


# What may change a run and what may not


@pytest.fixture
def scores_of(lorenz, tmp_path):
    """A function: flags -> scores.csv of a run of one filter, and the names of the files."""

    def make(*flags):
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        few = ("--output.fields", "false", "--output.figures", "false", "--output.members", "false")
        ensf = '{ EnSF = { kind = "ensf", steps = 20, integrator = "exponential", tolerance = 0 } }'
        assert run(lorenz[0], "--out", out, "--filters", ensf, "--cycles", 9, *few, *flags)[0] == 0
        return (out / "scores.csv").read_text(), set(contents(out))

    return make


def test_neither_other_filters_nor_another_time_change_the_numbers_but_the_seed(scores_of, lorenz):
    first, again, other = (scores_of(*flags) for flags in ((), (), ("--seed", "1")))
    among_others = (lorenz[1] / "scores.csv").read_text().splitlines()
    assert first == again
    assert first[0].splitlines()[1:] == [row for row in among_others if row.startswith("EnSF")]
    assert first[0] != other[0]
    assert first[1] == {"SHA256SUMS", "config.toml", "diagnostics.nc", "record.json", "scores.csv", "scores.json"}


def test_a_folder_with_a_run_in_it_is_left_alone(lorenz):
    path, folder, _ = lorenz
    before = contents(folder)
    status, out, err = run(path, "--out", folder)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"{folder}: is not an empty folder" in err
    assert contents(folder) == before


def test_the_default_folder_has_the_name_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(LORENZ)
    flags = ("--output.fields", "false", "--output.figures", "false")
    assert run("mine.toml", *flags, "--filters", '{ free = { kind = "free-run" } }')[0] == 0
    assert (tmp_path / "runs" / "mine" / "scores.csv").is_file()


# Filters that fail


FAILING = """
[filters.stiff]
kind = "ensf"
steps = 20
tolerance = 0.0
[filters.deaf]
kind = "letkf"
cutoff = inf
inflation = 0.1
rtps = 0.0
[filters.observations]
kind = "observations-only"
"""


def test_a_failing_filter_is_recorded_and_the_others_go_on(tmp_path):
    (tmp_path / "a.toml").write_text(LORENZ_WORLD + FAILING)
    flags = {"cycles": 200, "shocks.kind": "none", "observations.operator": "identity", "observations.sigma": 0.02}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    status, out, error = run(tmp_path / "a.toml", "--out", tmp_path / "run", *words, "--nature.climate_days", 50)
    assert status == 3
    found = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    # Euler's steps are too long for such precise data; without spread there is nothing to correct with
    expected = {"stiff": "non-finite", "deaf": "diverged", "observations": "ok"}
    assert {name: scores["status"] for name, scores in found.items()} == expected
    assert found["stiff"]["all"]["rmse_a"] is None
    series = series_of(tmp_path / "run")
    errors = errors_in(tmp_path / "run", {"experiment": 3, "t": 200, "x": 40})
    for name, scores in series.items():  # 200 cycles are run in two pieces
        np.testing.assert_array_equal(scores["cycle"], np.arange(200))
        np.testing.assert_array_equal(scores["time_h"], 6.0 * np.arange(200))
        assert np.isfinite(scores["rmse_a"]).all() == (name != "stiff")
        if name != "stiff":  # at the edge of overflow, the file's mean and the mean that is scored may round apart
            np.testing.assert_allclose(errors.sel(experiment=name), scores["rmse_a"], rtol=1e-4)
    assert np.isnan(series["stiff"]["rmse_a"][100:]).all()  # it ended with the piece in which it failed
    for name, status in expected.items():
        assert re.search(rf" {name} .* {status} ", out)
    # said once each, with the cycle and the cure; what is kept is from before
    assert re.search(r"osse.py: stiff: cycle \d+: .* not finite.*; it ends, .* is kept; use more inflation", error)
    assert re.search(r"osse.py: deaf: cycle \d+ diverges, chi_square = .*: nothing is done, see faults.recovery", error)
    assert error.count("stiff") == error.count("deaf") == 1
    kept = lambda name: [p.name for p in (tmp_path / "run" / "checkpoints" / name).iterdir() if p.name.isdecimal()]
    assert (kept("stiff"), sorted(kept("deaf"))) == ([], ["100", "200"])
    assert series["deaf"]["flagged"].sum() > 100
    assert (tmp_path / "run" / "figures" / "snapshot.png").stat().st_size > 10_000


# Nature runs from files


SMALL = SQGConfig(N=16)


def nature_run(path, *, config=SMALL, days=6, every=6.0):
    """A file with a state every so many hours; returns the states."""
    count = int(24 * days / every) + 1
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft2(rng.normal(0.0, 3000.0, size=(count, *config.shape)))
    spectrum[..., 4:] = 0.0  # smooth, so that the model can go on from any of them
    spectrum[..., np.abs(np.fft.fftfreq(config.N, 1.0 / config.N)) >= 4, :] = 0.0
    states = np.fft.irfft2(spectrum, s=config.shape[1:]).astype(np.float32)
    netcdf.create_nature_run(path, config)
    netcdf.append_states(path, 3600.0 * every * np.arange(count), states)
    return states


FROM_FILE = ("--nature.spinup_days", 2, "--nature.climate_days", 3)


def test_the_truth_goes_on_from_the_file(tmp_path):
    (tmp_path / "a.toml").write_text(SQG + '[filters.climate]\nkind = "climatology"\n')
    states = nature_run(tmp_path / "run.nc")
    config = configuration.read(
        tmp_path / "a.toml",
        {"nature": {"file": str(tmp_path / "run.nc"), "spinup_days": 2.0, "climate_days": 3.0}, "cycles": 2},
    )
    world = experiment.make_world(config)
    np.testing.assert_array_equal(world.truth[0], states[20])  # day 5
    advance = jax.jit(sqg.make_advance(config.model, 9))
    np.testing.assert_allclose(world.truth[1], advance(states[20]), atol=1e-4 * np.abs(states[20]).max())
    climate = states[8:20:2]  # days 2 to 5, every 12 h
    np.testing.assert_allclose(
        world.climate.mean, climate.mean((0, 3), keepdims=True)[0] + 0 * states[0], rtol=1e-3, atol=1
    )
    np.testing.assert_allclose(np.mean(world.climate.variance), climate.var((0, 3)).mean(), rtol=0.05)
    np.testing.assert_allclose(world.climate.states, climate, rtol=1e-6)


@pytest.mark.parametrize(("count", "kept"), [(2, 2), (100, 100), (101, 51), (1000, 100)])
def test_a_climate_keeps_some_of_its_states_evenly_in_time(count, kept):
    states = np.arange(count, dtype=float)[:, None] * np.ones(3)
    found = np.asarray(baselines.climate_of(states).states)[:, 0]
    assert len(found) == kept
    assert len(set(np.diff(found))) == 1


@pytest.mark.parametrize("given", [{"adaptive": "global"}, {"adaptive": "regional"}, {"additive": 0.1}])
def test_inflation_of_the_forecast_changes_an_experiment(tmp_path, given):
    (tmp_path / "a.toml").write_text(LORENZ_WORLD + '[filters.LETKF]\nkind = "letkf"\ncutoff = 14.0\n')
    spreads = []
    for change in ({}, given):
        config = configuration.read(tmp_path / "a.toml", {f"filters.LETKF.{field}": v for field, v in change.items()})
        world = experiment.make_world(config)
        experiment.check(config)
        analysis = experiment.make_filter(config, "LETKF", world.operator, world.climate)
        record = experiment.run_filter(config, world, "LETKF", analysis)
        assert np.isfinite(record.scores).all()
        spreads.append(record.mean("spread_a"))
    assert spreads[1] > spreads[0]


def spoil(path):
    with netCDF4.Dataset(path, "r+") as nc:
        nc["pv"][10, 1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("made", "flags", "said"),
    [
        ({"config": SQGConfig(N=32)}, [], ["N = 32 in the file, 16 in the experiment"]),
        ({"config": SQGConfig(N=16, U=20.0)}, [], ["U = 20", "30"]),
        ({"config": SQGConfig(N=16, symmetric=False)}, [], ["symmetric = False in the file"]),
        ({"days": 4}, [], ["ends on day 4, needed until 5"]),
        ({}, ["--nature.spinup_days", "3.5"], ["ends on day 6, needed until 6.5"]),
        ({"every": 24.0}, [], ["saved every 24 h", "interval_hours = 12"]),
        ({"every": 8.0}, [], ["saved every 8 h", "interval_hours = 12"]),
        ({"days": 0}, [], ["one state"]),
        ({"after": spoil}, [], ["pv[10], day 2.5", "is not what was written"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, made, flags, said):
    (tmp_path / "a.toml").write_text(SQG)
    after = made.pop("after", lambda path: None)
    nature_run(tmp_path / "run.nc", **made)
    after(tmp_path / "run.nc")
    before = contents(tmp_path)
    status, out, err = run(tmp_path / "a.toml", "--nature.file", tmp_path / "run.nc", *FROM_FILE, *flags)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert all(text in err for text in [str(tmp_path / "run.nc"), *said]), err
    assert contents(tmp_path) == before


def test_files_are_for_turbulence(tmp_path):
    (tmp_path / "a.toml").write_text(LORENZ)
    status, _, err = run(tmp_path / "a.toml", "--nature.file", "run.nc")
    assert status == 2
    assert "files hold SQG states; leave it out for lorenz96" in err


# The command line itself


def test_help_lists_every_field_with_its_unit():
    result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert result.stderr == ""
    parts = result.stdout.split("\n  --")
    for name, _, text in configuration.describe():
        assert any(part.startswith(f"{name} ") and text in part for part in parts), name
    assert any(re.match(r"model\.dt .*1200.*\[s\]", part, re.DOTALL) for part in parts)


# Golden scores

GOLDEN = {  # means over 8 cycles; a change of 1e-10 in the first state changes them by 4e-5 at most
    "LETKF": [0.861039429, 0.832469922, 0.481662231, 0.353965287, 0.513836343],
    "EnSF": [0.8138489645, 0.7338869301, 1.0173094939, 0.9856911942, 0.3671117283],
}


def test_scores_stay_what_they_were(x64, tmp_path):
    """Short and close to the rest state, so that chaos does not carry rounding into the digits compared."""
    (tmp_path / "a.toml").write_text(LORENZ)
    given = {"precision": "float64", "cycles": 8, "seed": 11, "nature.spinup_days": 0.25, "filters.LETKF.cutoff": 14.0}
    config = configuration.read(tmp_path / "a.toml", given)
    world = experiment.make_world(config)
    found = {}
    for name in GOLDEN:
        analysis = experiment.make_filter(config, name, world.operator, world.climate)
        record = experiment.run_filter(config, world, name, analysis)
        found[name] = [record.mean(column) for column in COLUMNS[3:]]
    for name, scores in found.items():
        np.testing.assert_allclose(scores, GOLDEN[name], rtol=1e-6, err_msg=f"{COLUMNS[3:]} of {name}: {scores}")


# The scores that the configurations promise

#: those of experiments; a training and the scaling problem have files of other kinds
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.toml") if not path.name.startswith(("vit_", "lorenz96_1e"))
)
EXPECT = re.compile(
    r"^# expect (?P<name>.+) (?P<score>\w+) (?P<part>all|last_third) (?P<low>[\d.]+)\.\.(?P<high>[\d.]+)$"
)


#: a configuration that takes long promises the scores of its first cycles alone
CYCLES = re.compile(r"^# expect-cycles (\d+)$", re.MULTILINE)


def expectations(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("# expect ")]
    found = [EXPECT.match(line) for line in lines]
    assert lines, f"{path.name} promises no score; end it with lines such as '# expect LETKF rmse_a all 0.4..0.5'"
    assert all(found), f"not readable: {[line for line, match in zip(lines, found, strict=True) if not match]}"
    return [match.groupdict() for match in found]


PATHS = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@PATHS
def test_configurations_promise_a_score_of_every_filter(path):
    promised = expectations(path)
    names, filters = {line["name"] for line in promised}, set(configuration.read(path).filters)
    if path.stem.startswith("benchmark_"):
        assert any(name.startswith("local-score") for name in names)
        assert names <= filters
    else:
        assert names == filters
    assert {line["score"] for line in promised} <= set(COLUMNS)
    assert all(float(line["low"]) < float(line["high"]) for line in promised)


@pytest.mark.slow
@PATHS
def test_configurations_give_the_scores_that_they_promise(tmp_path, path):
    promised = expectations(path)
    command = [sys.executable, str(SCRIPT), str(path), "--out", str(tmp_path / "run"), "--output.fields", "false"]
    command += [word for cycles in CYCLES.findall(path.read_text()) for word in ("--cycles", cycles)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode in (0, 3), result.stderr  # a filter may be there to diverge
    found = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    wrong = []
    for line in promised:
        value = found[line["name"]][line["part"]][line["score"]]
        if value is None or not float(line["low"]) <= value <= float(line["high"]):
            wrong.append(f"{line['name']} {line['score']} {line['part']}: {value}, not {line['low']}..{line['high']}")
    assert not wrong, "\n".join(wrong)
