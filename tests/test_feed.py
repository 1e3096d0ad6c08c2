"""scripts/feed.py: what arrives, what goes wrong with it, and the errors of a run that was fed so."""

import os
import subprocess
import sys
import time
import types

import calling
import numpy as np
import pytest
from rich.console import Console

from jaxda import config as configuration
from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf, observation_file, product_file
from jaxda.output.netcdf import FileError
from jaxda.output.observation_file import Observations
from jaxda.output.report import realtime_table
from jaxda.realtime import feed

SMALL = """
cycles = 11
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
kind = "climatology"
[observations]
fraction = 0.5
[filters.free-run]
kind = "free-run"
members = 2
"""
script = calling.script("feed")
pytestmark = pytest.mark.usefixtures("settings_of_jax")
TWELVE = 43200.0


@pytest.fixture(scope="module")
def fed(tmp_path_factory):
    """The configuration, the folder that was fed, and what the script said."""
    above = tmp_path_factory.mktemp("fed")
    (above / "small.toml").write_text(SMALL)
    kinds = ",".join(feed.DISTURBANCES)
    status, said, error = calling.call(script, above / "small.toml", "--to", above / "in", "--disturb", kinds)
    assert status == 0, error
    return above / "small.toml", above / "in", said


#: kind -> what is said of its file
WRONG = {"corrupt": "not a readable NetCDF file", "empty": "not a readable NetCDF file"}
WRONG |= {"outside": r"x\[0\] = .* is outside", "nan": r"value\[0\] = nan K is missing or not finite"}


def plan_of(fed):
    config = configuration.read(fed[0])
    return config, {one.kind: one.cycle for one in feed.plan(11, feed.DISTURBANCES, config.seed)}


def test_files_are_those_of_the_plan(fed):
    config, cycle_of = plan_of(fed)
    folder, said = fed[1:]
    missing = int(next(line for line in said.splitlines() if ": missing" in line).split()[1].rstrip(":"))
    expected = [feed.name_of(TWELVE * cycle) for cycle in range(11) if cycle != missing]
    expected += [feed.name_of(TWELVE * cycle_of["duplicate"]).replace(".nc", "_again.nc")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    for kind in feed.DISTURBANCES:
        assert f": {kind}, {feed.DISTURBANCES[kind]}" in said
    read = lambda cycle: observation_file.read(folder / feed.name_of(TWELVE * cycle), config.model, "scaled", 512)
    for kind, wrong in WRONG.items():
        with pytest.raises(FileError, match=wrong):
            read(cycle_of[kind])
    assert read(cycle_of["window"]).time == pytest.approx(TWELVE * (cycle_of["window"] + 0.4))


def test_observations_are_of_the_truth_that_is_kept(fed):
    config, cycle_of = plan_of(fed)
    truth = netcdf.read_nature_run(fed[1].with_name("in_truth.nc"))
    np.testing.assert_array_equal(truth.times, TWELVE * np.arange(11))
    states = netcdf.read_states(truth)
    for cycle in (0, cycle_of["late"]):
        found = observation_file.read(fed[1] / feed.name_of(TWELVE * cycle), config.model, "scaled", 512)
        assert len(found.values) == 256
        at = tuple(np.rint(found.positions).astype(int).T)
        errors = found.values - config.kelvin * states[cycle][at]
        assert 0.85 < errors.std() < 1.15
        np.testing.assert_allclose(found.errors, 1.0, rtol=1e-6)


def test_the_errors_of_products_are_those_of_the_truth(fed, tmp_path):
    config, _ = plan_of(fed)
    truth = netcdf.read_nature_run(fed[1].with_name("in_truth.nc"))
    states = netcdf.read_states(truth)
    for cycle, (error, after) in {1: (10.0, 20.0), 10: (30.0, 40.0)}.items():
        fields = {name: np.zeros((2, 16, 16), np.float32) for name in product_file.FIELDS}
        fields["analysis_mean"] = states[cycle] + error
        fields["forecast_mean"] = states[min(cycle + 1, 10)] - after
        path = tmp_path / product_file.name_of(TWELVE * cycle)
        product_file.write(path, config.model, TWELVE * cycle, TWELVE * (cycle + 1), fields, {})
    kelvin = config.kelvin
    rows = list(feed.scores(tmp_path, fed[1].with_name("in_truth.nc")))
    np.testing.assert_allclose(rows, [(12, 10 * kelvin, 20 * kelvin), (120, 30 * kelvin, np.nan)], rtol=1e-4)
    status, said, _ = calling.call(script, fed[0], "--to", fed[1], "--score", tmp_path)
    assert status == 0
    line = next(line for line in said.splitlines() if "mean" in line)
    assert [f"{20 * kelvin:.3f}" in line] * 2 == [True, True]


def test_a_table_without_errors_has_a_mean_that_says_so():
    console = Console(width=100)
    with console.capture() as capture:
        console.print(realtime_table([(0.0, 1.0, float("nan"))]))
    assert "mean" in capture.get()
    assert "nan" in capture.get()


def test_plans_are_the_same_for_a_seed_and_have_every_kind():
    for cycles in (10, 50):
        found = feed.plan(cycles, feed.DISTURBANCES, 3)
        assert found == feed.plan(cycles, feed.DISTURBANCES, 3) != feed.plan(cycles, feed.DISTURBANCES, 4)
        each = max(1, cycles // 10)
        for kind in set(feed.DISTURBANCES) - {"missing"}:
            assert sum(one.kind == kind for one in found) == each
        assert len({one.cycle for one in found}) == cycles - each  # of the missing
        assert found[0] == feed.Delivery(0, 0, "")
        assert all(one.slot == one.cycle + (one.kind in ("late", "duplicate")) for one in found)
        assert [one.slot for one in found] == sorted(one.slot for one in found)
        for late in (one for one in found if one.kind == "late"):  # after the file that follows it
            following = [n for n, one in enumerate(found) if one.cycle == late.cycle + 1 == one.slot]
            assert all(n < found.index(late) for n in following)
    assert feed.plan(3, [], 0) == [feed.Delivery(cycle, cycle, "") for cycle in range(3)]


def test_of_ten_thousand_cycles_a_share_is_disturbed():
    found = feed.plan(10_000, feed.DISTURBANCES, 0, 0.01 / len(feed.DISTURBANCES))
    assert sum(one.kind == "nan" for one in found) == 11
    assert sum(one.kind != "" for one in found) + 11 == 11 * len(feed.DISTURBANCES)  # the missing are not there


def test_no_more_files_wait_than_are_asked_for(tmp_path, monkeypatch):
    """What waits is taken away while the script sleeps."""
    (tmp_path / "small.toml").write_text(SMALL)
    folder, counts = tmp_path / "in", []

    def sleep(seconds):
        waiting = sorted(folder.glob("*.nc"))
        counts.append(len(waiting))
        if seconds and waiting:
            waiting[0].rename(waiting[0].with_suffix(".taken"))

    monkeypatch.setattr(script, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    status, _, error = calling.call(script, tmp_path / "small.toml", "--to", folder, "--ahead", "3")
    assert status == 0, error
    assert max(counts) == 3
    assert len(list(folder.iterdir())) == 11


def test_nothing_is_written_over(tmp_path):
    config = configuration.ExperimentConfig(model=SQGConfig(N=16))
    found = Observations(0.0, np.ones(1), np.ones(1), np.zeros((1, 3)))
    feed.deliver(tmp_path, config, feed.Delivery(0, 0, ""), found)
    before = (tmp_path / feed.name_of(0.0)).read_bytes()
    for kind in ("", "corrupt", "outside"):
        with pytest.raises(FileError, match="exists already"):
            feed.deliver(tmp_path, config, feed.Delivery(0, 0, kind), found)
    assert (tmp_path / feed.name_of(0.0)).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.long
def test_it_starts_as_a_command(tmp_path):
    """In the tests above JAX has begun before the script chooses its devices."""
    (tmp_path / "small.toml").write_text(SMALL)
    words = [calling.SCRIPTS / "feed.py", "small.toml", "--to", "in", "--cycles", "2"]
    alone = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "in").iterdir())) == 2
