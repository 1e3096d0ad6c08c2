"""The truth's model: forcing by cycle, the world that it makes, and the perfect model that follows it."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda import experiment, truth
from jaxda.models import sqg
from jaxda.parallel.mesh import member_mesh, over_members

WORLD = """
members = 4
cycles = 6
interval_hours = 12.0
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 3.0
climate_days = 3.0
"""
#: the jet turns around within the run, and Ekman layers begin with the interval from cycle 4 to 5
SCHEDULE = {
    "U": {"kind": "line", "days": [0.0, 3.0], "values": [30.0, -30.0]},
    "r": {"kind": "line", "days": [2.0, 2.0], "values": [0.0, 100.0]},
}
START = {"nature.change.r": 7.0, "model.U": 20.0}


@pytest.fixture
def world_of(tmp_path):
    """A function: overrides -> the configuration and its world."""
    (tmp_path / "world.toml").write_text(WORLD)

    def make(given):
        config = configuration.read(tmp_path / "world.toml", given)
        return config, experiment.make_world(config)

    return make


def test_forcing_is_that_of_the_middle_of_each_interval(tmp_path):
    (tmp_path / "world.toml").write_text(WORLD)
    config = configuration.read(tmp_path / "world.toml", {"nature.schedule": SCHEDULE, **START})
    forcing = truth.forcing_of(config)
    np.testing.assert_allclose(forcing.U, [25.0, 15.0, 5.0, -5.0, -15.0, -25.0], rtol=1e-6)
    np.testing.assert_array_equal(forcing.r, [0.0, 0.0, 0.0, 0.0, 100.0, 100.0])
    np.testing.assert_array_equal(forcing.tdiab, np.full(6, 864000.0, np.float32))


def test_a_schedule_that_changes_nothing_makes_the_constant_world(x64, world_of, assert_near):
    """Spin-up and climate bit for bit: they are before the forcing changes, with its first values."""
    given = {"precision": "float64"}
    still = {"U": {"kind": "line", "days": [0, 3], "values": [24, 24]}}
    (_, constant), (_, scheduled) = (world_of(given | more) for more in ({"model.U": 24.0}, {"nature.schedule": still}))
    np.testing.assert_array_equal(scheduled.truth[0], constant.truth[0])
    jax.tree.map(np.testing.assert_array_equal, scheduled.climate, constant.climate)
    assert_near(scheduled.truth, constant.truth, 1e-10)


def test_the_truth_is_the_models_run_interval_by_interval(x64, world_of, assert_near):
    _, world = world_of({"nature.schedule": SCHEDULE, "precision": "float64", **START})
    state = world.truth[0]
    for number, expected in enumerate(world.truth[1:]):
        values = {"U": 25.0 - 10.0 * number, "r": 100.0 * (number >= 4)}
        state = jax.jit(sqg.make_advance(sqg.SQGConfig(N=16, **values), 9))(state)
        assert_near(state, expected, 1e-9)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_perfect_forecast_of_the_truth_is_the_truth(world_of, assert_near, cpus, devices):
    """Member by member, over devices, in a scan over the cycles; the unchanging model's forecast is not."""
    config, world = world_of({"nature.schedule": SCHEDULE})
    advance, mesh = truth.make_truth_advance(config), member_mesh(4, cpus[:devices])

    @jax.jit
    def run(ensemble):
        def one(ensemble, number):
            return over_members(partial(advance, number), mesh)(ensemble), ensemble

        return jax.lax.scan(one, ensemble, np.arange(config.cycles))[1]

    start = np.broadcast_to(world.truth[0], (4, *config.model.shape))
    forecasts = np.asarray(run(start))
    for member in range(4):
        assert_near(forecasts[:, member], world.truth, 1e-4)
    wrong = jax.jit(sqg.make_advance(config.forecast_model, 9))(world.truth[-2]) - world.truth[-1]
    assert np.abs(wrong).max() > 0.02 * np.abs(world.truth[-1]).max()
    # as over_members does with the members of large states
    in_turn = jax.jit(lambda number, ensemble: jax.lax.map(partial(advance, number), ensemble))(3, forecasts[3])
    assert_near(in_turn, forecasts[4], 1e-4)


def test_worlds_without_schedule_keep_their_model(tmp_path):
    (tmp_path / "world.toml").write_text(WORLD)
    config = configuration.read(tmp_path / "world.toml", {"model": {"kind": "lorenz96"}, "interval_hours": 6.0})
    advance = truth.make_truth_advance(config)
    states = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    expected = truth.MODELS["lorenz96"].make_advance(config.model, 1, "float32")(states)
    np.testing.assert_array_equal(advance(5, states), expected)
