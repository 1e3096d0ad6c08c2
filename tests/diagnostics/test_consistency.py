"""Desroziers et al. (2005): an optimal analysis confirms its statistics, a wrong one says which is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import diagnostics

POINTS, BACKGROUND, SIGMA = 200_000, 2.0, 0.5


def found(assumed_background, assumed_sigma, seen=1.0):
    """Of scalar analyses with assumed variances, whose errors have those above."""
    keys = jax.random.split(jax.random.key(0), 3)
    forecast = BACKGROUND**0.5 * jax.random.normal(keys[0], (POINTS,))  # the truth is 0
    values = SIGMA * jax.random.normal(keys[1], (POINTS,))
    precision = jnp.where(jax.random.uniform(keys[2], (POINTS,)) < seen, assumed_sigma**-2, 0.0)
    gain = assumed_background / (assumed_background + assumed_sigma**2)
    analysis = forecast + gain * (values - forecast)
    return jax.jit(diagnostics.desroziers)(values, precision, forecast, analysis)


@pytest.mark.parametrize("seen", [1.0, 0.3])
def test_right_statistics_are_confirmed(x64, seen):
    ratio = BACKGROUND / SIGMA**2
    expected = (ratio + 1, ratio, 1.0, ratio / (ratio + 1))
    np.testing.assert_allclose(found(BACKGROUND, SIGMA, seen), expected, rtol=0.03)


@pytest.mark.parametrize(("background", "sigma"), [(4.0, 0.5), (2.0, 1.0), (0.5, 0.3)])
def test_wrong_statistics_give_the_closed_form(x64, background, sigma):
    """d_ab = K d_b and d_a = (1 - K) d_b, with the gain K of what was assumed and E d_b^2 of what is."""
    gain, innovation = background / (background + sigma**2), (BACKGROUND + SIGMA**2) / sigma**2
    expected = innovation * np.array([1.0, gain, 1.0 - gain, gain * (1.0 - gain)])
    np.testing.assert_allclose(found(background, sigma), expected, rtol=0.02)


def test_what_is_not_observed_does_not_count(x64):
    values, precision = np.array([1.0, np.nan, 7.0, 3.0]), np.array([4.0, 4.0, 0.0, 4.0])
    forecast, analysis = np.array([0.0, 9.0, 9.0, 2.0]), np.array([0.5, 9.0, 9.0, 2.5])
    own = diagnostics.desroziers(values, precision, forecast, analysis)
    np.testing.assert_allclose(own, [4.0, 2.0, 2.0, 1.0], rtol=1e-12)
    assert float(own.innovation) == pytest.approx(float(own.background + own.observation))
    assert not any(diagnostics.desroziers(values, 0.0 * precision, forecast, analysis))
