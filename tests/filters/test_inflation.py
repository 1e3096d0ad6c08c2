"""Spread and its relaxation, against their definitions."""

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
