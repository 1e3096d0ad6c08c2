"""Samples from the model: what the model makes, in a known order, from a pool that can be kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.models import sqg
from jaxda.training import simulator
from jaxda.training.dataset import Batch, DataConfig, Statistics
from jaxda.training.simulator import Pool

KEY = jax.random.key(3)
NONE = Statistics(np.zeros(2), np.ones(2))
MODEL = sqg.SQGConfig(N=16)
CONFIG = DataConfig(lead_hours=(4.0,), roll_out=2, batch=2, shift=False)


def counted():
    """Four states whose values are their number, and the column's over 100."""
    states = jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 2, 4, 4)) + jnp.arange(4) / 100
    return Pool(states, jnp.zeros((), jnp.int32))


def test_batches_take_turns_and_walk_on():
    step, pool = jax.jit(simulator.make_next(KEY, lambda x: x + 10.0, 4, CONFIG, NONE)), counted()
    for first in ([0, 1], [2, 3], [20, 21]):  # the first come back after the pool's turn, two leads older
        pool, batch = step(pool)
        assert isinstance(batch, Batch)
        np.testing.assert_allclose(batch.x[:, 0, 0, 0], first, atol=1e-5)
        np.testing.assert_allclose(batch.y[:, :, 0, 0, 0], np.array(first)[:, None] + [10, 20], atol=1e-5)
        np.testing.assert_allclose(batch.lead_time, 4 / 24)
    assert pool.number == 3


def test_shifts_move_a_sample_as_a_whole_along_x():
    moved = dataclasses.replace(CONFIG, shift=True)
    _, batch = simulator.make_next(KEY, lambda x: x, 4, moved, NONE)(counted())
    np.testing.assert_allclose(jnp.sort(batch.x), jnp.sort(counted().states[:2]))
    np.testing.assert_array_equal(batch.x, batch.y[:, 0])


def test_mirrors_turn_a_sample_as_a_whole():
    step = jax.jit(simulator.make_next(KEY, lambda x: x, 4, CONFIG, NONE, (lambda x: -x,)))
    pool, signs = counted(), set()
    for first in (0, 2, 0, 2):
        pool, batch = step(pool)
        for i in range(2):
            sign = float(jnp.sign(batch.x[i, 0, 0, -1]))
            np.testing.assert_allclose(batch.x[i], sign * counted().states[first + i])
            np.testing.assert_array_equal(batch.y[i], jnp.stack([batch.x[i]] * 2))
            signs.add(sign)
    assert signs == {-1.0, 1.0}


@pytest.fixture(scope="module")
def pool():
    return simulator.spun_up(KEY, MODEL, 4, 5.0)


def test_pairs_are_what_the_model_makes_exactly(pool):
    step = jax.jit(simulator.make_next(KEY, simulator.make_lead(MODEL, CONFIG), 4, CONFIG, NONE))
    hours = jax.jit(sqg.make_advance(MODEL, 3))  # 4 h in steps of 4800 s
    for _ in range(4):
        pool, batch = step(pool)
        np.testing.assert_array_equal(batch.y[:, 0], hours(batch.x))
        np.testing.assert_array_equal(batch.y[:, 1], hours(batch.y[:, 0]))


def test_samples_are_in_units_of_the_standard_deviation(pool):
    own = Statistics(np.array([10.0, -20.0]), np.array([500.0, 300.0]))
    make = lambda statistics: simulator.make_next(KEY, simulator.make_lead(MODEL, CONFIG), 4, CONFIG, statistics)(pool)
    for found, plain in zip(make(own)[1][::2], make(NONE)[1][::2], strict=True):
        np.testing.assert_allclose(own.restore(found), plain, rtol=1e-5, atol=1e-2)


def test_the_pool_is_spun_up_from_independent_states(pool):
    days = []
    again = simulator.spun_up(KEY, MODEL, 4, 5.0, days.append)
    np.testing.assert_array_equal(again.states, pool.states)
    assert sum(days) == pytest.approx(5.0)
    assert np.isfinite(pool.states).all()
    assert np.abs(np.corrcoef(pool.states.reshape(4, -1)) - np.eye(4)).max() < 0.999
    assert jax.tree.map(jnp.shape, simulator.empty(MODEL, 4)) == jax.tree.map(jnp.shape, pool)
    # 5 days are 90 steps of the model from the key's own noise
    start = sqg.initial_state(jax.random.split(KEY, 4)[1], MODEL)
    np.testing.assert_allclose(pool.states[1], jax.jit(sqg.make_advance(MODEL, 90))(start), rtol=1e-3, atol=1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lead_hours": (4.0, 8.0)}, "makes one"),
        ({"lead_hours": (5.0,)}, r"lead_hours = 5 is not a multiple of the model's step of 1.33333 h; use 5\.33"),
    ],
)
def test_leads_that_cannot_be_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        simulator.lead_steps(MODEL, dataclasses.replace(CONFIG, **given))


def test_a_pool_that_batches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="pool = 4 is not a multiple of batch = 3; use 6"):
        simulator.make_next(KEY, lambda x: x, 4, dataclasses.replace(CONFIG, batch=3), NONE)
