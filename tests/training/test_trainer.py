"""Losses and the training step: closed forms of both, and what a long run must survive."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.models import vit
from jaxda.training import loss, trainer
from jaxda.training.dataset import Batch
from jaxda.training.trainer import TrainConfig

KEY = jax.random.key(0)
CONFIG = TrainConfig(steps=50, warmup=0, learning_rate=0.01, weight_decay=0.1, ema=0.9)


def linear(params, x, lead_time, keys=None):
    """x times one number a variable, by the lead time: as simple as a surrogate can be."""
    return (
        x * (1.0 + lead_time[:, None, None, None] * params["layer"]["kernel"][:, None, None]) + params["layer"]["bias"]
    )


def params():
    return {"layer": {"kernel": jnp.array([0.3, -0.2]), "bias": jnp.array(0.1)}}


def batch(count=4, leads=2, seed=1):
    """States that shrink by a half at each lead of half a day."""
    x = jax.random.normal(jax.random.key(seed), (count, 2, 8, 8))
    y = jnp.stack([x * 0.5 ** (k + 1) for k in range(leads)], 1)
    return Batch(x, jnp.full(count, 0.5), y)


def one(batch):
    """As one to accumulate."""
    return jax.tree.map(lambda a: a[None], batch)


def test_a_roll_out_is_the_model_on_its_own_forecasts():
    data = batch()
    found = loss.roll_out(linear, params(), data.x, data.lead_time, 3)
    state = data.x
    for k in range(3):
        state = linear(params(), state, data.lead_time)
        np.testing.assert_allclose(found[:, k], state, rtol=1e-5, atol=1e-6)


def test_each_lead_has_its_own_dropout_key():
    noisy = lambda params, x, lead_time, keys: x + jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    data = batch()
    keys = jax.random.split(KEY, len(data.x))
    found = loss.roll_out(noisy, None, data.x, data.lead_time, 2, keys)
    assert jnp.abs((found[:, 1] - found[:, 0]) - (found[:, 0] - data.x)).max() > 0.1
    np.testing.assert_array_equal(loss.roll_out(noisy, None, data.x, data.lead_time, 2, keys, unrolled=True), found)


def test_the_spectral_loss_knows_amplitudes_and_no_phases(x64):
    x = jax.random.normal(KEY, (3, 2, 16, 16), jnp.float64)
    np.testing.assert_allclose(loss.spectral(jnp.roll(x, (3, 5), (-2, -1)), x), 0.0, atol=1e-10)
    # half the amplitude at every wavenumber but the mean's
    assert loss.spectral(0.5 * x, x) == pytest.approx(np.log(2.0) ** 2, rel=0.02)
    assert jnp.isfinite(jax.grad(lambda a: loss.spectral(a, x))(jnp.zeros_like(x) + 1e-3 * x)).all()


def test_the_loss_is_the_mean_over_leads_and_the_weighted_spectral_one():
    data = batch()
    forecast = loss.roll_out(linear, params(), data.x, data.lead_time, 2)
    plain = loss.make_loss(linear)(params(), data, None)
    assert plain == pytest.approx(float(np.mean((forecast - data.y) ** 2)), rel=1e-6)
    both = loss.make_loss(linear, 0.1)(params(), data, None)
    assert both == pytest.approx(float(plain + 0.1 * loss.spectral(forecast, data.y)), rel=1e-6)


def test_decay_is_of_matrices_alone():
    own = vit.ViTConfig(image_size=16, embed_dim=32, depth=2, num_heads=4, positions="relative", qk_norm=True)
    mask = trainer.decayed(jax.eval_shape(lambda: vit.init(KEY, own)))
    decayed = {jax.tree_util.keystr(path) for path, yes in jax.tree.leaves_with_path(mask) if yes}
    assert all(name.endswith("['kernel']") for name in decayed)
    assert "['blocks']['qkv']['kernel']" in decayed
    assert not mask["trunk"]["positions"]
    assert not mask["trunk"]["query"]
    assert not mask["blocks"]["bias"]


def test_two_steps_are_adamw_by_hand(x64):
    data, config = one(batch()), CONFIG
    step = jax.jit(trainer.make_train_step(config, linear))
    start = jax.tree.map(jnp.float64, params())
    data = jax.tree.map(jnp.float64, data)
    state = trainer.init_state(config, start)
    of = jax.grad(lambda p: loss.make_loss(linear)(p, jax.tree.map(lambda a: a[0], data), None))
    p, m, v = start, jax.tree.map(jnp.zeros_like, start), jax.tree.map(jnp.zeros_like, start)
    average = start
    for t in (1, 2):
        g = of(p)
        norm = jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(g)))
        g = jax.tree.map(lambda a, norm=norm: a / jnp.maximum(norm, 1.0), g)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, v, g)
        rate = 0.01 * 0.5 * (1 + np.cos(np.pi * (t - 1) / 50))
        decay = {"layer": {"kernel": 0.1, "bias": 0.0}}
        p = jax.tree.map(
            lambda p, m, v, d, t=t, rate=rate: p
            - rate * ((m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8) + d * p),
            p, m, v, decay,
        )  # fmt: skip
        part = max(0.1, 1 / t)
        average = jax.tree.map(lambda a, b, part=part: (1 - part) * a + part * b, average, p)
        state, metrics = step(state, data, KEY)
        assert metrics.learning_rate == pytest.approx(rate)
        assert metrics.gradient_norm == pytest.approx(float(norm))
        for found, expected in zip(jax.tree.leaves((state.params, state.average)), jax.tree.leaves((p, average))):
            np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_accumulated_halves_are_the_whole():
    data = batch(8)
    whole, _ = jax.jit(trainer.make_train_step(CONFIG, linear))(trainer.init_state(CONFIG, params()), one(data), KEY)
    halves = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), data)
    twice = dataclasses.replace(CONFIG, accumulate=2)
    parts, _ = jax.jit(trainer.make_train_step(twice, linear))(trainer.init_state(twice, params()), halves, KEY)
    for found, expected in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params)):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_constant_rate_stays_after_the_warm_up():
    rate = trainer.schedule(dataclasses.replace(CONFIG, schedule="constant", warmup=4))
    np.testing.assert_allclose([rate(k) for k in (0, 1, 4, 25, 49, 10**6)], [0.0, 0.0025, *[0.01] * 4], rtol=1e-6)
    cosine = trainer.schedule(dataclasses.replace(CONFIG, warmup=4))
    assert cosine(49) < 0.01 * cosine(4)


def test_another_loss_takes_the_place_of_roll_outs(x64):
    """Of batches that are any arrays; with weights of single precision, which they stay."""
    rng = np.random.default_rng(3)
    x, weight = jnp.asarray(rng.normal(size=(4, 2, 8, 8))), jnp.asarray(rng.uniform(size=(4,)))
    days = jnp.full(4, 0.5)

    def of(apply):
        return lambda params, batch, keys: jnp.mean(batch[1] * apply(params, batch[0], days)[:, 0, 0, 0] ** 2)

    start = jax.tree.map(lambda a: a.astype(jnp.float32), params())
    state = trainer.init_state(CONFIG, start)
    after, metrics = jax.jit(trainer.make_train_step(CONFIG, linear, of=of))(state, one((x, weight)), KEY)
    expected = jnp.mean(weight * (x[:, 0, 0, 0] * (1 + 0.5 * 0.3) + 0.1) ** 2)
    assert float(metrics.loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(after.params["layer"]["kernel"][0]) != pytest.approx(0.3)
    types = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert types(after) == types(state)
    with pytest.raises(AttributeError):  # it has no x, y, lead_time
        trainer.make_train_step(CONFIG, linear)(state, one((x, weight)), KEY)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    state = trainer.init_state(CONFIG, params())
    data = one(batch())
    step = jax.jit(trainer.make_train_step(CONFIG, linear))
    after, metrics = step(state, data._replace(y=data.y.at[0, 1, 0, 0, 3, 3].set(bad)), KEY)
    assert not metrics.finite
    for found, expected in zip(jax.tree.leaves(after), jax.tree.leaves(state)):
        np.testing.assert_array_equal(found, expected)
    after, metrics = step(after, data, KEY)
    assert metrics.finite
    assert after.step == 1


def test_training_finds_the_model_of_the_data():
    config = dataclasses.replace(CONFIG, steps=300, learning_rate=0.05, weight_decay=0.0, warmup=10)
    step = jax.jit(trainer.make_train_step(config, linear))
    state = trainer.init_state(config, params())
    for i in range(300):
        state, metrics = step(state, one(batch(seed=i)), KEY)
    np.testing.assert_allclose(state.params["layer"]["kernel"], -1.0, atol=0.01)  # x (1 - 0.5) after half a day
    assert metrics.loss < 1e-4
    np.testing.assert_allclose(state.average["layer"]["kernel"], -1.0, atol=0.02)


def test_a_vit_is_trained_the_same_after_a_restart():
    own = vit.ViTConfig(image_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, residual=True, dropout=0.1)
    apply = lambda params, x, lead_time, keys=None: vit.apply(own, params, x, lead_time, keys=keys)
    config = dataclasses.replace(CONFIG, learning_rate=5e-3, warmup=2)
    step = jax.jit(trainer.make_train_step(config, apply))

    def run(state, first, last):
        losses = []
        for i in range(first, last):
            state, metrics = step(state, one(batch(seed=i)), KEY)
            losses.append(float(metrics.loss))
        return state, losses

    start = trainer.init_state(config, vit.init(KEY, own))
    unbroken, losses = run(start, 0, 20)
    saved = jax.tree.map(np.asarray, run(start, 0, 7)[0])
    resumed, _ = run(jax.tree.map(jnp.asarray, saved), 7, 20)
    for found, expected in zip(jax.tree.leaves(resumed), jax.tree.leaves(unbroken)):
        np.testing.assert_array_equal(found, expected)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_validation_is_in_the_unit_asked_and_knows_persistence(assert_near):
    data = batch()
    scale = jnp.array([2.0, 3.0])[:, None, None]
    skill = trainer.make_validation(linear, scale)(params(), data)
    forecast = loss.roll_out(linear, params(), data.x, data.lead_time, 2)
    for k in range(2):
        assert_near(skill.rmse[k], np.sqrt(np.mean((scale * (forecast - data.y)[:, k]) ** 2)), 1e-5)
        assert_near(skill.persistence[k], np.sqrt(np.mean((scale * (data.x - data.y[:, k])) ** 2)), 1e-5)
    perfect = {"layer": {"kernel": jnp.full(2, -1.0), "bias": jnp.array(0.0)}}
    np.testing.assert_allclose(trainer.make_validation(linear, scale)(perfect, data).correlation, 1.0, rtol=1e-5)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup = 50 is not under steps = 50"):
        TrainConfig(steps=50, warmup=50)
