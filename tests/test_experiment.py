"""What the rows of an experiment share and where they differ: the truth with and without its shocks."""

import jax
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda import experiment

WORLD = """
members = 6
cycles = 12
interval_hours = 6.0
[model]
kind = "lorenz96"
dim = 8
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
noise = 1.0
[shocks]
kind = "none"
sizes = [3.0]
probabilities = [0.5]
[filters.ours]
kind = "letkf"
cutoff = inf
"""
CALM = {"filters.calm": {"kind": "letkf", "cutoff": float("inf"), "shocks": False}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function: overrides -> the world, and name -> the scores of a filter."""
    path = tmp_path_factory.mktemp("experiment") / "world.toml"
    path.write_text(WORLD)

    def make(given):
        config = configuration.read(path, given)
        world, scores = experiment.make_world(config), {}
        for name in config.filters:
            analysis = experiment.make_filter(config, name, world.operator, world.climate)
            scores[name] = experiment.run_filter(config, world, name, analysis).scores
        return world, scores

    return make


@pytest.fixture(scope="module")
def quiet(run):
    """World and scores where nothing shocks."""
    return run({})


@pytest.mark.parametrize("kind", ["transient", "persistent"])
def test_rows_without_shocks_see_the_truth_without(run, quiet, kind):
    shocked, before = run({"shocks.kind": kind})
    world, scores = run({"shocks.kind": kind} | CALM)
    np.testing.assert_array_equal(world.truth, shocked.truth)
    np.testing.assert_array_equal(world.calm, quiet[0].truth)
    different = (np.asarray(world.truth) != world.calm).any(-1)
    assert not different[0]
    assert different.sum() > 2
    # shocks that stay are felt at all later cycles, others at their own alone
    assert different[np.argmax(different) :].all() == (kind == "persistent")
    for found, expected in ((scores["ours"], before["ours"]), (scores["calm"], quiet[1]["ours"])):
        for name, series in expected._asdict().items():
            np.testing.assert_array_equal(getattr(found, name), series, err_msg=name)
    assert scores["calm"].rmse_a.mean() < 0.8 * scores["ours"].rmse_a.mean()


def test_without_shocks_there_is_one_truth(run):
    world, scores = run(CALM)
    np.testing.assert_array_equal(world.truth, world.calm)
    np.testing.assert_array_equal(scores["ours"].rmse_a, scores["calm"].rmse_a)


@pytest.fixture
def compiled():
    """Seconds of every compilation, or look-up in JAX's folder of compiled programs, as they happen."""
    found = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(("cycles", "programs"), [(8, [1, 0]), (24, [1, 0, 0, 0, 0, 0]), (7, [1, 1])])
def test_nothing_is_compiled_after_the_first_call(tmp_path, monkeypatch, compiled, cycles, programs):
    """But for a last call that has to be shorter."""
    monkeypatch.setattr(experiment, "chunk_of", lambda shape: 4)
    (tmp_path / "world.toml").write_text(WORLD)
    config = configuration.read(tmp_path / "world.toml", {"cycles": cycles})
    world = experiment.make_world(config)
    analysis = experiment.make_filter(config, "ours", world.operator, world.climate)
    forecaster = experiment.make_forecaster(config, world, "ours")
    slices = [world.truth[first : first + 4] for first in range(0, cycles, 4)]  # JAX compiles these too, once
    first_ensemble = jax.block_until_ready(world.first_ensemble(config.members_of("ours")))
    counts = [len(compiled)]
    experiment.run_filter(config, world, "ours", analysis, forecaster, lambda chunk: counts.append(len(compiled)))
    assert np.diff(counts).tolist() == programs
    assert len(slices) == len(programs)
    assert len(first_ensemble) == config.members


@pytest.mark.parametrize(
    ("cycles", "wanted", "length"),
    [
        (12, 10, 6),
        (11, 10, 6),
        (100, 10, 10),
        (300, 10, 10),
        (3, 10, 3),
        (22, 10, 11),
        (26, 10, 13),
        (23, 10, 8),
        (1, 100, 1),
    ],
)
def test_calls_have_one_length_where_they_can(cycles, wanted, length):
    assert experiment.length_of(cycles, wanted) == length
