"""Learning in the cycle, with a surrogate of two numbers, a for each boundary: x -> a x, whose best a is known."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import observations
from jaxda.models import vit
from jaxda.observations import Observation, ObservationConfig
from jaxda.parallel import sharding
from jaxda.parallel.sharding import ParallelConfig
from jaxda.training import online
from jaxda.training.dataset import Statistics
from jaxda.training.online import OnlineConfig, Pair

KEY = jax.random.key(3)
SHAPE, N, MEMBERS = (2, 8, 8), 8, 6
STATISTICS = Statistics(np.array([5.0, -3.0]), np.array([10.0, 20.0]))
OPERATOR = observations.make_operator(ObservationConfig(operator="identity"), SHAPE)
CONFIG = OnlineConfig(
    steps=3, batch=4, learning_rate=0.005, ema=0.9, first=4, window=16, hold_every=4, guard=2, analyses=0.0, replay=0.0,
    replay_states=8,
)  # fmt: skip


def scaled(params, x, lead_time, *, keys=None):
    """Each boundary of x times its a, whatever the lead time."""
    return params["a"][:, None, None] * x


def of(a):
    return {"a": a * jnp.ones(2)}


def task(leads=1):
    return online.Task(scaled, STATISTICS, 0.5, leads, OPERATOR)


def restored(x):
    return STATISTICS.restore(np.asarray(x))


def pairs_of(a, count, seed=0, noise=0.5):
    """Pairs of a world x -> a x: exact analyses at the start, observations with errors, analyses drawn half way."""
    rng = np.random.default_rng(seed)
    a = np.broadcast_to(a, count)[:, None, None, None]
    start, forecast = rng.normal(size=(count, *SHAPE)), 0.5
    values = restored(a * start) + noise * rng.normal(size=start.shape)
    seen = (values - STATISTICS.mean[:, None, None]) / STATISTICS.std[:, None, None]
    target = forecast * start + 0.5 * (seen - forecast * start)  # of a forecast by 0.5, and a gain of a half
    ones = np.ones_like(start)
    pairs = Pair(start, target, 0.3 * ones, values, noise**-2.0 * ones, 0.7 * ones)
    return jax.tree.map(jnp.asarray, pairs)


def offline_samples(a=0.5, count=8):
    x = np.random.default_rng(9).normal(size=(count, *SHAPE))
    return jnp.asarray(x), jnp.asarray(a * x)


def learner_of(config, pairs, a=0.5, numbers=None, layout=None):
    """A learner with such pairs in its window, of the cycles 1, 2, ... unless others are named."""
    layout = layout or sharding.alone()
    learner = online.init(config, task(), of(a), offline_samples(a), layout)
    numbers = np.arange(1, len(pairs.start) + 1) if numbers is None else np.asarray(numbers)
    window = jax.tree.map(lambda all, some: all.at[numbers % config.window].set(some), learner.window, pairs)
    there = learner.numbers.at[numbers % config.window].set(jnp.asarray(numbers, jnp.int32))
    return learner._replace(window=window, numbers=there, when=jnp.int32(numbers.max()))


def members(x, seed=0, size=0.1):
    """An ensemble in the model's unit with the normalised mean x."""
    noise = np.random.default_rng(seed).normal(size=(MEMBERS, *SHAPE))
    return restored(x + size * (noise - noise.mean(0)))


def one_cycle(config, learner, pair, number, layout=None, learn=None):
    """What the learner makes of a cycle whose pair is given but for its start, which the learner knows."""
    learn = learn or jax.jit(online.make_learn(config, task(), layout))
    observation = Observation(pair.values, pair.precision)
    return learn(KEY, number, learner, members(pair.target, 1), members(pair.target, 2), observation)


def same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


# The loss


@pytest.mark.parametrize("leads", [1, 3])
def test_the_loss_is_its_formula(x64, leads):
    config = dataclasses.replace(CONFIG, analyses=0.7, observations=1.3, replay=0.2)
    pairs, (x, y) = pairs_of(0.8, 4), offline_samples()
    unseen = np.random.default_rng(2).uniform(size=pairs.values.shape) < 0.4
    pairs = pairs._replace(precision=jnp.where(unseen, 0.0, pairs.precision))
    found = online.make_loss(config, task(leads))(scaled)(of(0.6), (pairs, (x[:4], 1.1 * y[:4])), None)

    start, target, variance, values, _, spread = map(np.asarray, pairs)
    after = 0.6**leads * start
    innovation = (values - (10.0 * np.array([1, 2])[:, None, None] * after + np.array([5, -3])[:, None, None])) ** 2
    each = [np.mean((d / (0.25 + s))[~u]) for d, s, u in zip(innovation, spread, unseen, strict=True)]
    expected = 1.3 * np.mean(each) + 0.7 * np.mean((after - target) ** 2 / variance)
    off = np.mean((0.6 * x[:4] - 1.1 * y[:4]) ** 2, axis=(1, 2, 3))
    expected += 0.2 * np.mean(off / np.mean(variance, axis=(1, 2, 3)))
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def least(config, pairs):
    """Where the loss, of the second degree in a, is least."""
    loss = online.make_loss(config, task())(scaled)
    replay = jax.tree.map(lambda a: np.resize(a, (len(pairs.start), *a.shape[1:])), offline_samples())
    slope = jax.jit(jax.grad(lambda a: loss(of(a), (pairs, replay), None)))
    below, above = slope(0.0), slope(1.0)
    return float(below / (below - above))


def test_observations_find_the_world_and_analyses_are_shrunk_towards_the_forecast(x64):
    noise, count = 30.0, 400  # an error of 1.5 to 3 standard deviations of the states
    pairs = pairs_of(0.8, count, noise=noise)
    scale = np.array([10.0, 20.0])[:, None, None]
    error = noise / np.sqrt(np.sum((scale * pairs.start) ** 2))  # of least squares, white noise
    by_observations = least(CONFIG, pairs)
    assert abs(by_observations - 0.8) < 4 * error < 0.05
    by_analyses = least(dataclasses.replace(CONFIG, analyses=1.0, observations=0.0), pairs)
    assert by_analyses == pytest.approx(0.5 + 0.5 * (0.8 - 0.5), abs=0.02)  # the gain is a half


def test_replay_keeps_the_offline_weights(x64):
    pairs = pairs_of(0.8, 40)
    best = [least(dataclasses.replace(CONFIG, replay=weight), pairs) for weight in (0.0, 1e3, 1e7)]
    assert best[0] == pytest.approx(0.8, abs=0.01)
    assert best[0] > best[1] > best[2]
    assert best[2] == pytest.approx(0.5, abs=1e-4)


def test_innovations_of_a_reliable_ensemble_have_mean_one(x64):
    """The truth is one more member, and the observation's error has the variance that it says."""
    rng = np.random.default_rng(4)
    deviation, sigma, count = np.array([2.0, 5.0])[:, None, None], 3.0, 300
    truth, values = rng.normal(size=(2, count, *SHAPE))
    ones = np.ones((count, *SHAPE))
    forecast = np.zeros_like(ones)
    values = restored(forecast) + deviation * truth + sigma * values
    pairs = Pair(forecast, forecast, ones, values, sigma**-2 * ones, deviation**2 * ones)
    found = online.innovations(task(), forecast, jax.tree.map(jnp.asarray, pairs))
    assert found.shape == (count,)
    assert found.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / ones.size))
    assert online.innovations(task(), forecast, pairs._replace(precision=0 * ones)).max() == 0.0


def test_what_is_not_observed_counts_for_nothing(x64):
    learner = learner_of(CONFIG, pairs_of(0.8, 3))
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.8, 1, seed=5))
    forecast, analysis = members(pair.target, 1), members(pair.target, 2)
    hole = np.zeros(SHAPE, bool)
    hole[0, 2:5] = True
    remember = lambda values, precision: online.remembered(
        CONFIG, task(), learner, 4, forecast, analysis, Observation(values, precision)
    )
    value_and_slope = jax.jit(jax.value_and_grad(online.make_loss(CONFIG, task())(scaled)))

    def of_window(learner):
        pairs = jax.tree.map(lambda leaf: leaf[4:5], learner.window)
        return value_and_slope(of(0.6), (pairs, offline_samples(count=1)), None)

    nan = remember(jnp.where(hole, jnp.nan, pair.values), pair.precision)
    zero = remember(jnp.where(hole, 1e6, pair.values), jnp.where(hole, 0.0, pair.precision))
    whole = remember(pair.values, pair.precision)
    assert np.isfinite(of_window(nan)[0])
    assert same(of_window(nan), of_window(zero))
    assert not same(of_window(nan), of_window(whole))
    nothing = remember(jnp.full(SHAPE, jnp.nan), pair.precision)
    value, slope = of_window(nothing)
    assert value == 0.0
    assert (slope["a"] == 0.0).all()


# What is remembered


def test_the_window_keeps_the_last_cycles(x64):
    config = dataclasses.replace(CONFIG, window=8)
    learner = online.init(config, task(), of(0.5), offline_samples(), sharding.alone())
    rng = np.random.default_rng(6)
    means, values = rng.normal(size=(2, 11, *SHAPE))
    for number in range(11):
        forecast = members(means[number], 1, size=0.3)
        forecast[:, 0, 0, 0] = forecast[0, 0, 0, 0]  # all agree there
        analysis = members(means[number], 2)
        observation = Observation(jnp.asarray(values[number]), jnp.full(SHAPE, 4.0))
        learner = online.remembered(config, task(), learner, number, forecast, analysis, observation)
        if number == 0:
            assert (np.asarray(learner.numbers) == -1).all()  # nothing is before it
    assert sorted(learner.numbers.tolist()) == list(range(3, 11))
    for slot, number in enumerate(learner.numbers.tolist()):
        pair = jax.tree.map(lambda leaf, slot=slot: leaf[slot], learner.window)
        np.testing.assert_allclose(pair.start, means[number - 1], atol=1e-12)
        np.testing.assert_allclose(pair.target, means[number], atol=1e-12)
        np.testing.assert_array_equal(pair.values, values[number])
    np.testing.assert_allclose(learner.last, means[10], atol=1e-12)
    own = np.array((forecast - STATISTICS.mean[:, None, None]) / STATISTICS.std[:, None, None]).var(0, ddof=1)
    floor = 0.1 * own.mean()
    np.testing.assert_allclose(pair_of(learner, 10).variance, np.maximum(own, floor), rtol=1e-12)
    np.testing.assert_allclose(pair_of(learner, 10).spread, forecast.var(0, ddof=1), rtol=1e-12, atol=1e-20)


def pair_of(learner, number):
    return jax.tree.map(lambda leaf: leaf[number % CONFIG.window % len(learner.numbers)], learner.window)


# Steps and the guard


@pytest.fixture(scope="module")
def learn():
    with jax.enable_x64(True):
        return jax.jit(online.make_learn(CONFIG, task()))


def world(held_out, others, count=11):
    """Pairs of the cycles 1, 2, ..., of which every fourth is held out."""
    numbers = np.arange(1, count + 1)
    return pairs_of(np.where(numbers % CONFIG.hold_every == 0, held_out, others), count)


def test_the_learner_finds_the_world(x64, learn):
    learner, records = learner_of(CONFIG, pairs_of(0.8, 1)), []
    states = np.random.default_rng(7).normal(size=(80, *SHAPE))
    noise = np.random.default_rng(8).normal(size=states.shape)
    for number, state in enumerate(states):
        values = restored(0.8 * learner.last) + 2.0 * noise[number]
        observation = Observation(jnp.asarray(values), jnp.full(SHAPE, 0.25))
        analysis = members(state, number)  # a new state each cycle: pairs are independent
        learner, record = learn(KEY, number, learner, analysis, analysis, observation)
        records.append(record)
    records = jax.tree.map(lambda *rows: np.array(rows), *records)
    np.testing.assert_allclose(online.to_forecast(sharding.alone(), learner)["a"], 0.8, atol=0.02)
    before = slice(0, CONFIG.first)
    assert np.isnan(records.gain[before]).all()
    assert (records.drift[before] == 0).all()
    assert (records.rolled_back[before] == 0).all()
    kept = 1 - records.rolled_back[CONFIG.first :]
    assert kept[:20].mean() > 0.8
    assert records.drift[-1] == pytest.approx((0.8 - 0.5) / 0.5, abs=0.04)
    after = records.after[-20:].mean()
    assert after < 0.5 * records.before[CONFIG.first]
    np.testing.assert_allclose(records.gain, (records.before - records.after) / records.before)


def test_steps_that_make_the_held_out_cycles_worse_are_taken_back(x64, learn):
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    learner = learner_of(CONFIG, world(held_out=0.5, others=0.2))._replace(when=jnp.int32(12))
    after, record = one_cycle(CONFIG, learner, pair, 13, learn=learn)
    assert same(after.train, learner.train)
    assert record.rolled_back == 1.0
    assert record.after > record.before
    assert record.gain < 0
    assert record.drift == 0.0
    assert after.numbers.tolist().count(13) == 1  # the cycle is remembered all the same


def test_steps_that_make_them_better_are_kept(x64, learn):
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    learner = learner_of(CONFIG, world(held_out=0.2, others=0.2))
    after, record = one_cycle(CONFIG, learner, pair, 13, learn=learn)
    assert record.rolled_back == 0.0
    assert record.gain > 0
    assert record.drift > 0
    assert after.train.step == CONFIG.steps
    moved, average = after.train.params["a"], after.train.average["a"]
    assert ((moved > 0.2) & (moved < average) & (average < 0.5)).all()
    # the guard's numbers are those of the latest held-out cycles, 8 and 4
    rows = np.array([8, 4])
    pairs = jax.tree.map(lambda leaf: leaf[rows], after.window)
    for params, found in ((learner.train.average, record.before), (after.train.average, record.after)):
        assert found == pytest.approx(float(online.innovations(task(), scaled(params, pairs.start, 0.5), pairs).mean()))


def test_held_out_cycles_are_in_no_batch(x64, learn):
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    pairs = world(held_out=0.2, others=0.2)
    held = np.arange(1, 12) % CONFIG.hold_every == 0

    def weights(rows):
        changed = jax.tree.map(lambda leaf: jnp.where(rows[:, None, None, None], 0.9 * leaf, leaf), pairs)
        after, record = one_cycle(CONFIG, learner_of(CONFIG, changed), pair, 13, learn=learn)
        assert record.rolled_back == 0.0
        return after.train

    plain = weights(np.zeros(11, bool))
    assert same(weights(held), plain)
    assert not same(weights(~held), plain)


def test_without_a_held_out_cycle_no_step_is_kept(x64, learn):
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    learner = learner_of(CONFIG, pairs_of(0.2, 3))
    after, record = one_cycle(CONFIG, learner, pair, 5, learn=learn)
    assert same(after.train, learner.train)
    assert np.isnan(record.before)
    assert record.rolled_back == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_leaves_all_as_it_was(x64, learn, bad):
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    pairs = world(held_out=0.2, others=0.2)
    fit = np.arange(1, 12) % CONFIG.hold_every != 0
    pairs = pairs._replace(start=jnp.where(fit[:, None, None, None], bad, pairs.start))
    learner = learner_of(CONFIG, pairs)
    after, record = one_cycle(CONFIG, learner, pair, 13, learn=learn)
    assert same(after.train, learner.train)
    assert record.rolled_back == 1.0
    assert np.isfinite(record.before)


# Devices


def test_a_batch_that_does_not_divide_is_refused(cpus):
    with pytest.raises(ValueError, match=r"batch = 3 does not divide over 2 devices; use 4"):
        online.make_layout(dataclasses.replace(CONFIG, batch=3), cpus)


def test_a_guard_that_does_not_fit_into_the_window_is_refused():
    with pytest.raises(ValueError, match=r"guard = 5 of every 4th cycle do not fit into window = 16; use at least 20"):
        dataclasses.replace(CONFIG, guard=5)


def test_two_devices_learn_what_one_does(cpus, assert_near):
    """The optimizer whole on both, or cut."""
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    pairs, found = world(held_out=0.2, others=0.2), []
    for strategy, devices in (("ddp", 1), ("ddp", 2), ("zero1", 2)):
        config = dataclasses.replace(CONFIG, parallel=ParallelConfig(strategy=strategy), analyses=0.5, replay=0.1)
        layout = online.make_layout(config, cpus[:devices])
        assert layout.mesh.size == devices
        learner = learner_of(config, pairs, layout=layout)
        after, record = one_cycle(config, learner, pair, 13, layout)
        assert record.rolled_back == 0.0
        found.append((after.train, record))
    for each in found[1:]:
        for one, two in zip(jax.tree.leaves(found[0]), jax.tree.leaves(each), strict=True):
            assert_near(np.asarray(two), np.asarray(one), 1e-4)


@pytest.mark.long
def test_weights_in_parts_learn_what_whole_ones_do(cpus, assert_near):
    """Those of a network, which knows how to gather them."""
    own = vit.ViTConfig(
        image_size=N, patch_size=4, embed_dim=8, depth=2, num_heads=2, decoder_depth=0, aggregation="joint",
        residual=True, dropout=0.0, drop_path=0.0,
    )  # fmt: skip
    learnt = task()._replace(apply=partial(vit.apply, own))
    params = vit.init(KEY, own)
    pair = jax.tree.map(lambda leaf: leaf[0], pairs_of(0.2, 1, seed=5))
    pairs, found = world(held_out=0.2, others=0.2), []
    for devices in (1, 2):
        config = dataclasses.replace(CONFIG, parallel=ParallelConfig(strategy="zero3"), analyses=0.5, replay=0.1)
        layout = online.make_layout(config, cpus[:devices])
        learner = online.init(config, learnt, params, offline_samples(), layout)
        like = learner_of(config, pairs, layout=layout)
        learner = learner._replace(window=like.window, numbers=like.numbers)
        for leaf in jax.tree.leaves(learner.train.params["blocks"]):
            assert leaf.addressable_shards[0].data.size * devices == leaf.size
        after, record = one_cycle(config, learner, pair, 13, learn=jax.jit(online.make_learn(config, learnt, layout)))
        assert record.rolled_back == 0.0
        # what forecasts has them whole
        whole = jax.jit(partial(online.to_forecast, layout))(after)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(whole))
        found.append((whole, record))
    for one, two in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        assert_near(np.asarray(two), np.asarray(one), 1e-2)  # of biases, which were zero
