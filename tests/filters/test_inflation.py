"""Spread, its relaxation, adaptive and additive inflation, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxda.filters import inflation

SHAPES = pytest.mark.parametrize("shape", [(2, 4, 4), (9,)])


def ensemble_of(shape, members=6, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, size=(members, *shape))


@SHAPES
def test_deviations_and_spread(x64, shape):
    ensemble = ensemble_of(shape)
    mean, deviation = inflation.deviations(jnp.asarray(ensemble))
    np.testing.assert_allclose(mean, ensemble.mean(0), rtol=1e-14)
    np.testing.assert_allclose(mean + deviation, ensemble, rtol=1e-14)
    np.testing.assert_allclose(deviation.sum(0), 0.0, atol=1e-13)
    np.testing.assert_allclose(inflation.spread(ensemble), ensemble.std(0, ddof=1), rtol=1e-14)


@SHAPES
def test_rescaling_keeps_the_mean_and_multiplies_the_spread(x64, shape):
    ensemble, factor = ensemble_of(shape), np.random.default_rng(1).uniform(0.5, 2.0, size=shape)
    for scale in (1.3, factor):
        result = inflation.rescaled(jnp.asarray(ensemble), scale)
        np.testing.assert_allclose(result.mean(0), ensemble.mean(0), rtol=1e-13)
        np.testing.assert_allclose(result.std(0, ddof=1), scale * ensemble.std(0, ddof=1), rtol=1e-13)


@SHAPES
@given(strength=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_relaxation_mixes_the_spreads(x64, shape, strength, seed):
    ensemble = ensemble_of(shape, seed=seed)
    target = np.random.default_rng(seed).uniform(0.0, 5.0, size=shape)
    result = inflation.relaxed_to(target, jnp.asarray(ensemble), strength)
    expected = (1.0 - strength) * ensemble.std(0, ddof=1) + strength * target
    np.testing.assert_allclose(result.std(0, ddof=1), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(result.mean(0), ensemble.mean(0), rtol=1e-12)


def test_points_where_all_members_agree_stay_as_they_are():
    ensemble = jnp.asarray(ensemble_of((9,)), jnp.float32).at[:, 4].set(2.5)
    result = inflation.relaxed_to(jnp.ones(9), ensemble, 0.5)
    np.testing.assert_array_equal(result[:, 4], 2.5)
    assert np.all(np.isfinite(result))


# Adaptive


def region(sites=60, members=200, correlation=0.7, seed=0):
    """Observed deviations `(M, P)` of a forecast with this correlation between neighbours, precisions, tapers."""
    rng = np.random.default_rng(seed)
    truth = correlation ** np.abs(np.subtract.outer(np.arange(sites), np.arange(sites)))
    y = rng.normal(size=(members, sites)) @ np.linalg.cholesky(truth).T
    return y - y.mean(0), rng.uniform(0.5, 4.0, sites), rng.uniform(0.1, 1.0, sites)


def innovations(factor, count, y, precision, seed=1):
    """Innovations `(count, P)` of forecasts whose covariance is `factor` times that of the deviations y."""
    rng = np.random.default_rng(seed)
    forecast = np.sqrt(factor / (len(y) - 1)) * rng.normal(size=(count, len(y))) @ y
    return forecast + rng.normal(size=(count, len(precision))) / np.sqrt(precision)


def factors(d, y, precision, taper, prior_sd):
    gram = y * (taper * precision) @ y.T
    return np.asarray(inflation.covariance_factor(d, y.var(0, ddof=1), precision, taper, gram, prior_sd))


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0])
def test_the_factor_of_synthetic_innovations_is_found(x64, monkeypatch, factor):
    monkeypatch.setattr(inflation, "LEAST_FACTOR", -np.inf)
    y, precision, taper = region()
    found = factors(innovations(factor, 2000, y, precision), y, precision, taper, 1e6)
    assert abs(found.mean() - factor) < 4 * found.std() / np.sqrt(len(found))  # without bias where the prior is wide


def test_estimate_and_prior_are_weighted_by_their_variances(x64, monkeypatch):
    monkeypatch.setattr(inflation, "LEAST_FACTOR", -np.inf)
    y, precision, taper = region()
    d = innovations(1.0, 4000, y, precision)
    alone = factors(d, y, precision, taper, 1e6)
    assert alone.std() > 0.2  # the neighbours' errors go together: sqrt(2 / 60) would be 0.18 without that and R
    for prior_sd in (0.1, 0.5):
        gain = (factors(d, y, precision, taper, prior_sd) - 1.0) / (alone - 1.0)
        np.testing.assert_allclose(gain, gain[0], rtol=1e-6)
        # the gain tells the variance that the estimate claims: at a factor of 1 the one that it has
        claimed = prior_sd**2 * (1.0 / gain[0] - 1.0)
        assert claimed == pytest.approx(alone.var(), rel=0.1)
    sharp = factors(d, y, precision, taper, 1e-6)
    np.testing.assert_allclose(sharp, 1.0, atol=1e-9)


def test_the_factor_has_a_floor():
    y, precision, taper = region()
    assert factors(np.zeros(60), y, precision, taper, 10.0) == pytest.approx(inflation.LEAST_FACTOR)


@pytest.mark.parametrize("none", ["precision", "taper", "members"])
def test_without_information_the_factor_is_one(none):
    y, precision, taper = region(members=5)
    given = {"precision": precision, "taper": taper, "members": y} | {none: 0.0 * {"members": y}.get(none, precision)}
    found = factors(np.full(60, 9.0), given["members"], given["precision"], given["taper"], 1.0)
    assert found == 1.0


def test_sites_that_are_not_observed_do_not_count(x64):
    y, precision, taper = region()
    d = innovations(2.0, 1, y, precision)[0]
    seen = np.arange(60) % 3 > 0
    found = factors(np.where(seen, d, 0.0), y, np.where(seen, precision, 0.0), taper, 1.0)
    np.testing.assert_allclose(found, factors(d[seen], y[:, seen], precision[seen], taper[seen], 1.0), rtol=1e-12)


# Additive


def test_climate_differences_add_their_covariance_and_keep_the_mean(x64):
    rng = np.random.default_rng(3)
    states = rng.normal(size=(7, 3)) @ rng.normal(size=(3, 3)) + 5.0
    ensemble = np.full((4000, 3), 2.0)
    result = inflation.with_climate_differences(jax.random.key(0), jnp.asarray(ensemble), jnp.asarray(states), 0.3)
    np.testing.assert_allclose(result.mean(0), 2.0, rtol=1e-13)
    expected = 0.09 * np.cov(states, rowvar=False)
    np.testing.assert_allclose(np.cov(np.asarray(result), rowvar=False), expected, atol=0.1 * expected.max())


def test_in_a_small_ensemble_the_added_variance_is_right_in_expectation(x64):
    states = jnp.asarray(np.random.default_rng(4).normal(size=(9, 2)))
    add = jax.vmap(lambda key: inflation.with_climate_differences(key, jnp.zeros((3, 2)), states, 2.0))
    variance = np.asarray(add(jax.random.split(jax.random.key(1), 4000))).var(1, ddof=1).mean(0)
    np.testing.assert_allclose(variance, 4.0 * np.var(states, axis=0, ddof=1), rtol=0.08)
