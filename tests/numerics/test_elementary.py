"""Polynomials against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.numerics.elementary import arctan_and_slope, sine_and_cosine


def units(found, exact):
    """Largest error in units in the last place of the exact value."""
    return np.max(np.abs(np.asarray(found, float) - exact) / np.spacing(np.abs(exact).astype(np.float32)))


def test_arctan_and_its_slope_to_three_units_in_the_last_place():
    draws = np.random.default_rng(0)
    x = np.concatenate([4 * draws.normal(size=20000), np.exp(draws.uniform(-30, 30, 20000)), [1.0, -1.0, 0.999999]])
    x = x.astype(np.float32)
    angle, slope = jax.jit(arctan_and_slope)(x)
    exact = x.astype(float)
    assert units(angle, np.arctan(exact)) <= 3
    usual = np.abs(x) < 1e9
    assert units(slope[usual], 1 / (1 + exact[usual] ** 2)) <= 3


@pytest.mark.parametrize("x", [0.0, 3e38, -3e38, np.inf, -np.inf])
def test_arctan_at_the_ends(x):
    angle, slope = arctan_and_slope(jnp.float32(x))
    assert angle == pytest.approx(np.arctan(x), abs=2e-7)
    assert 0.0 <= slope <= 1.0


@pytest.mark.usefixtures("x64")
def test_arctan_in_double_precision_is_the_libraries():
    x = jnp.linspace(-5, 5, 11)
    np.testing.assert_allclose(arctan_and_slope(x), [np.arctan(x), 1 / (1 + x**2)], rtol=1e-15)


def test_sine_and_cosine_of_every_quarter():
    words = np.random.default_rng(1).integers(0, 2**32, 50000, dtype=np.uint32)
    words[:8] = np.arange(8, dtype=np.uint32) << 29
    sine, cosine = jax.jit(sine_and_cosine)(words)
    angle = 2 * np.pi * words / 2.0**32
    assert np.abs(sine - np.sin(angle)).max() < 2e-7
    assert np.abs(cosine - np.cos(angle)).max() < 2e-7
