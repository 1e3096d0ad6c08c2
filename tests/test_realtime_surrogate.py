"""Real-time runs that a surrogate forecasts: as in a twin experiment, and what it learns outlives a kill."""

import math
import shutil
from pathlib import Path

import calling
import jax
import netCDF4
import numpy as np
import pytest
from watching import FakeTime, names, numbers, rows

from jaxda import config as configuration
from jaxda import experiment, surrogate
from jaxda.output import product_file
from jaxda.output.checkpoint import Checkpoints
from jaxda.realtime import feed, loop, system
from jaxda.realtime.inbox import folder_source

SMALL = """
members = 6
cycles = 6
forecast = "surrogate"
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 30.0
climate_days = 30.0
[initial]
kind = "climatology"
[surrogate]
folder = "{folder}"
[online]
steps = 2
batch = 2
first = 2
window = 8
hold_every = 2
guard = 1
replay_states = 4
[filters.LETKF]
kind = "letkf"
cutoff = 3000.0
[filters.online]
kind = "letkf"
cutoff = 3000.0
online = true
"""
TWELVE = 43200.0
realtime = calling.script("realtime")


@pytest.fixture(scope="module")
def small(tiny_training, tmp_path_factory):
    """The configuration's file, which has both filters, what both start from, and their world."""
    file = tmp_path_factory.mktemp("small") / "small.toml"
    file.write_text(SMALL.format(folder=tiny_training[0].as_posix()))
    config = configuration.read(file)
    climate, ensemble = system.make_start(system.check(config, "online"))
    return file, config, climate, ensemble, experiment.make_world(config)


@pytest.fixture(scope="module")
def parts(small):
    """The system of each filter."""
    _, config, climate, _, _ = small
    return {name: system.make_system(system.check(config, name), climate) for name in config.filters}


@pytest.fixture(scope="module")
def sent(small, tmp_path_factory):
    """A folder with the files of all cycles."""
    _, config, _, _, world = small
    above = tmp_path_factory.mktemp("sent")
    observe = feed.make_observations(config, world)
    for cycle in range(config.cycles):
        feed.deliver(above, config, feed.Delivery(cycle, cycle, ""), observe(cycle))
    return above


def run(small, own, sent, above, without=()):
    """The folder that a run of all cycles, but for the files that are missing, wrote, or goes on with."""
    watch, out = above / "watch", above / "out"
    if not watch.exists():
        shutil.copytree(sent, watch)
        for cycle in without:
            (watch / feed.name_of(TWELVE * cycle)).unlink()
    schedule = loop.schedule_of(own.config, every=0.0, grace=3.0)
    assert loop.run(own, small[3], folder_source(watch), watch, out, schedule, FakeTime().host) == 6
    return out


@pytest.fixture(scope="module")
def unbroken(small, parts, sent, tmp_path_factory):
    """What a run that learns wrote."""
    return run(small, parts["online"], sent, tmp_path_factory.mktemp("unbroken"))


def record_of(row):
    return {name: float(row[f"learning_{name}"]) for name in ("before", "after", "gain", "drift", "rolled_back")}


@pytest.mark.long
def test_a_surrogate_forecasts_and_learns_as_in_the_twin_experiment(small, parts, sent, unbroken, tmp_path):
    _, config, _, _, world = small
    for name, out in {"LETKF": run(small, parts["LETKF"], sent, tmp_path), "online": unbroken}.items():
        kept = []
        analysis = experiment.make_filter(config, name, world.operator, world.climate)
        record = experiment.run_filter(config, world, name, analysis, on_chunk=lambda chunk, to=kept: to.append(chunk))
        fields = kept[0].fields
        assert record.learned is None or np.isfinite(record.learned.gain[2:]).all()
        for cycle, row in enumerate(rows(out / "status.csv")):
            _, found = product_file.read(out / product_file.name_of(TWELVE * cycle))
            for ours, theirs in (("analysis_mean", fields.mean), ("analysis_spread", fields.spread)):
                np.testing.assert_allclose(found[ours], theirs[cycle], atol=1e-3 * float(theirs[cycle].std()))
            assert (int(row["replaced"]), row["status"]) == (0, "analysed")
            assert ("learning_gain" in row) == (name == "online")
            if name == "online":
                expected = {key: series[cycle] for key, series in record.learned._asdict().items()}
                assert record_of(row) == pytest.approx(expected, rel=1e-2, abs=1e-3, nan_ok=True)


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.long
def test_a_run_that_learns_goes_on_bit_for_bit_where_it_was_killed(small, parts, sent, unbroken, tmp_path, monkeypatch):
    original, calls = loop._save, []

    def killing(*arguments):
        calls.append(arguments)
        if len(calls) == 5:  # of cycle 3, which has learned
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", killing)
        with pytest.raises(Killed):
            run(small, parts["online"], sent, tmp_path)
    assert numbers(run(small, parts["online"], sent, tmp_path)) == numbers(unbroken)
    assert parts["online"].learn._cache_size() == 1  # nothing was compiled again, neither in a run nor for a restart
    last = (tree_of(out, parts["online"]) for out in (unbroken, tmp_path / "out"))
    assert next(last) == next(last)


def checkpoint_of(out, own):
    with Checkpoints(out / "checkpoints") as checkpoints:
        return checkpoints.restore(6, own.abstract._asdict())


def tree_of(out, own):
    """Every byte of the last checkpoint."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(checkpoint_of(out, own))]


@pytest.mark.long
def test_a_cycle_without_observations_is_not_learned_from(small, parts, sent, tiny_training, tmp_path):
    """Nor is the one after it, which knows of no analysis 12 h before."""
    own = parts["online"]
    out = run(small, own, sent, tmp_path, without=[3])
    found = rows(out / "status.csv")
    assert [row["status"] for row in found] == ["analysed"] * 3 + ["missing"] + ["analysed"] * 2
    assert [math.isnan(record_of(row)["drift"]) for row in found] == [False] * 3 + [True] + [False] * 2
    assert math.isfinite(record_of(found[4])["gain"])  # from what it remembers
    learner = checkpoint_of(out, own)["model"]
    assert sorted(np.asarray(learner.numbers).tolist()) == [-1] * 5 + [1, 2, 5]
    assert int(learner.when) == 5
    statistics = surrogate.load(tiny_training[0]).statistics
    for slot in (1, 2, 5):
        for cycle, mean in ((slot - 1, learner.window.start[slot]), (slot, learner.window.target[slot])):
            _, fields = product_file.read(out / product_file.name_of(TWELVE * cycle))
            np.testing.assert_allclose(mean, statistics.normalise(fields["analysis_mean"]), atol=1e-4)
    with netCDF4.Dataset(out / product_file.name_of(3 * TWELVE)) as nc:
        assert np.isnan(nc.learning_gain)
        assert nc.seconds_learning < 1.0


# The command line


@pytest.mark.long
@pytest.mark.usefixtures("settings_of_jax")
def test_the_script_learns_and_says_so(small, sent, unbroken, tmp_path):
    watch = shutil.copytree(sent, tmp_path / "watch")
    words = [small[0], "--watch", watch, "--out", tmp_path / "out", "--every", 0, "--poll", 0, "--filter", "online"]
    for cycles in (3, 6):
        status, said, error = calling.call(realtime, *words, "--cycles", cycles)
        assert status == 0, error
    assert numbers(tmp_path / "out") == numbers(unbroken)
    assert "% | waiting " in said.splitlines()[0]
    assert " learning " in said.splitlines()[0].split("% | waiting ")[1]
    # every member is replaced where nothing is believed, and the run goes on
    watch = shutil.copytree(sent, tmp_path / "again")
    words = ["--watch", watch, "--out", tmp_path / "replaced", "--every", 0, "--poll", 0, "--filter", "LETKF"]
    status, said, _ = calling.call(realtime, small[0], *words, "--surrogate.limit", 1e-3, "--cycles", 1)
    assert status == 0
    assert "| 6 members replaced | waiting " in said
    assert "learning" not in said
    assert rows(tmp_path / "replaced" / "status.csv")[0]["replaced"] == "6"
    with netCDF4.Dataset(tmp_path / "replaced" / product_file.name_of(0)) as nc:
        assert nc.members_replaced == 6


@pytest.mark.usefixtures("settings_of_jax")
@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--surrogate.folder", "nowhere"], "nowhere: no such folder"),
        (["--surrogate.lead_hours", "5.0"], "lead_hours = 5: the surrogate was not trained with it; use one of 4"),
        (["--model.H", "9000.0"], "H = 10000.0, the experiment has 9000.0; train one with that, or change model.H"),
        (["--forecast", "model"], 'filters.online.online = true, but its forecast is the "model"'),
        (["--online.batch", "3"], "filters.online: online.batch = 3 does not divide over 2 devices; use 4"),
    ],
)  # fmt: skip
def test_a_surrogate_that_does_not_fit_is_refused_and_nothing_is_left(small, tmp_path, monkeypatch, words, wrong):
    monkeypatch.chdir(tmp_path)
    Path("watch").mkdir()
    short = ["--nature.spinup_days", "30.0", "--nature.climate_days", "3.0"]
    status, said, error = calling.call(realtime, small[0], "--watch", "watch", "--filter", "online", *short, *words)
    assert (status, said) == (2, "")
    assert wrong in error
    assert error.splitlines()[-1].startswith("realtime.py: ")
    assert names(tmp_path / "runs" / "small") == names(tmp_path / "watch") == []
