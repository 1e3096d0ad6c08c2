"""Errors and spread: closed forms, and what a reliable ensemble must show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxda import diagnostics

SHAPES = pytest.mark.parametrize("shape", [(7,), (2, 4, 4)])


@SHAPES
def test_rmse_of_known_differences(shape):
    truth = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sign = np.where(np.arange(truth.size).reshape(shape) % 2, 1.0, -1.0)
    assert diagnostics.rmse(truth, truth) == 0.0
    np.testing.assert_allclose(diagnostics.rmse(truth + 3.0 * sign, truth), 3.0, rtol=1e-6)
    one = np.zeros(shape).ravel()
    one[4] = 5.0
    np.testing.assert_allclose(diagnostics.rmse(truth + one.reshape(shape), truth), 5.0 / truth.size**0.5, rtol=1e-6)


@SHAPES
@pytest.mark.parametrize("members", [2, 9])
def test_spread_of_known_deviations(x64, shape, members):
    ladder = np.arange(members, dtype=float).reshape(-1, *[1] * len(shape))  # variance M (M + 1)/12 with M - 1 freedoms
    variance = np.random.default_rng(1).uniform(0.5, 2.0, size=shape)
    ensemble = 40.0 + ladder * np.sqrt(variance)
    expected = np.sqrt(members * (members + 1) / 12.0 * variance.mean())
    np.testing.assert_allclose(diagnostics.mean_spread(jnp.asarray(ensemble)), expected, rtol=1e-12)


@pytest.mark.parametrize("members", [2, 5, 20])
def test_spread_and_error_of_a_reliable_ensemble(x64, members):
    """Fortin et al. (2014): spread^2 is M/(M + 1) of the mean's squared error where truth and members are alike."""
    points = 100_000
    states = jax.random.normal(jax.random.key(0), (members + 1, points))
    spread, error = diagnostics.mean_spread(states[1:]), diagnostics.rmse(states[1:].mean(0), states[0])
    ratio = float((spread / error) ** 2)
    relative_error = np.sqrt(2.0 / points * (1.0 + 1.0 / (members - 1)))  # standard, of the two variances
    assert abs(ratio / (members / (members + 1)) - 1.0) < 4.0 * relative_error


def test_anomaly_correlation_is_a_cosine():
    a = np.random.default_rng(3).normal(size=(2, 4, 4))
    assert diagnostics.anomaly_correlation(3.0 * a, a) == pytest.approx(1.0)
    assert diagnostics.anomaly_correlation(-a, a) == pytest.approx(-1.0)
    b = np.random.default_rng(4).normal(size=a.shape)
    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    assert diagnostics.anomaly_correlation(a, b) == pytest.approx(np.cos(angle), rel=1e-5)


def test_bias_is_the_mean_difference(x64):
    truth = np.random.default_rng(0).normal(size=(2, 4, 4))
    assert float(diagnostics.bias(truth + 0.25, truth)) == pytest.approx(0.25, rel=1e-12)
    assert float(diagnostics.bias(-truth, truth)) == pytest.approx(-2.0 * truth.mean(), rel=1e-12)


def test_spread_skill_is_what_binned_statistic_finds(x64):
    rng = np.random.default_rng(1)
    spread, error = rng.gamma(4.0, size=(2, 30, 30)), rng.normal(size=(2, 30, 30))
    edges = np.array([0.0, 1.0, 2.0, 4.0, 8.0, np.inf])
    found = jax.jit(diagnostics.spread_skill)(spread, error, jnp.asarray(edges[1:-1]))
    for values, own in ((np.ones_like(spread), found.points), (spread**2, found.variance), (error**2, found.square)):
        expected = stats.binned_statistic(spread.ravel(), values.ravel(), "sum", edges).statistic
        np.testing.assert_allclose(own, expected, rtol=1e-12)


def test_spread_tells_the_error_of_a_reliable_ensemble_in_every_bin(x64):
    """Whose spread differs from point to point; Fortin et al. (2014) holds in each bin."""
    members, points = 10, 300_000
    keys = jax.random.split(jax.random.key(0))
    scale = jnp.exp(0.5 * jax.random.normal(keys[0], (points,)))
    states = scale * jax.random.normal(keys[1], (members + 1, points))
    spread, error = states[1:].std(0, ddof=1), states[1:].mean(0) - states[0]
    # the bins are of what the ensemble was drawn with: its own spread has sampling errors that bins select
    found = diagnostics.spread_skill(scale, error, jnp.array([0.5, 1.0, 2.0]))
    own = diagnostics.spread_skill(scale, spread, jnp.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(own.square / found.square, members / (members + 1), rtol=0.03)
    np.testing.assert_allclose(
        found.variance / found.points * (1 + 1 / members), found.square / found.points, rtol=0.03
    )
