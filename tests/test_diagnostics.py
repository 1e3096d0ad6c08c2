"""Measures of an ensemble: closed forms, and what a reliable ensemble must show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

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


# The fair CRPS


@SHAPES
@pytest.mark.parametrize("members", [2, 3, 20])
def test_crps_is_the_double_sum(x64, shape, members):
    ensemble = np.random.default_rng(2).normal(40.0, 3.0, size=(members, *shape))
    ensemble[1] = ensemble[0]  # a tie
    truth = np.random.default_rng(3).normal(41.0, 1.0, size=shape)
    distance = np.abs(ensemble[:, None] - ensemble[None]).sum((0, 1)) / (2 * members * (members - 1))
    expected = np.mean(np.abs(ensemble - truth).mean(0) - distance)
    np.testing.assert_allclose(diagnostics.crps(jnp.asarray(ensemble), truth), expected, rtol=1e-12)


def test_crps_of_equal_members_is_their_absolute_error():
    truth = np.arange(8, dtype=np.float32)
    assert float(diagnostics.crps(jnp.broadcast_to(truth + 3.0, (4, 8)), truth)) == 3.0


@pytest.mark.parametrize("members", [2, 3, 10, 50])
def test_crps_of_gaussian_members_is_the_closed_form_at_any_ensemble_size(x64, members):
    """Gneiting & Raftery (2007), eq. 21; without the fair denominator two members would be sd / (2 sqrt(pi)) worse."""
    points, mean, sd, truth = 200_000, 1.0, 2.0, 2.5
    z = (truth - mean) / sd
    expected = sd * (z * (2.0 * norm.cdf(z) - 1.0) + 2.0 * norm.pdf(z) - np.pi**-0.5)
    ensemble = mean + sd * jax.random.normal(jax.random.key(members), (members, points))
    found = diagnostics.crps(ensemble, jnp.full(points, truth))
    one = jax.vmap(lambda x: diagnostics.crps(x[:, None], jnp.array([truth])))(ensemble.T[:5000])
    assert abs(float(found) - expected) < 4.0 * float(one.std()) / points**0.5


@pytest.mark.parametrize("members", [2, 20])
def test_crps_of_members_placed_around_their_mean_is_too_small(x64, members):
    """What the docstring warns of; error of the mean and spread are one, for many members it is 1/sqrt(pi)."""
    points = 200_000
    states = jax.random.normal(jax.random.key(0), (members + 1, points))
    found = float(diagnostics.crps(states[1:] - states[1:].mean(0), states[0]))
    expected = (np.sqrt(2.0 * (2.0 - 1.0 / members)) - 1.0) / np.sqrt(np.pi)
    assert abs(found - expected) < 0.006
    assert expected < (0.75 if members == 2 else 0.98) / np.sqrt(np.pi)


def test_anomaly_correlation_is_a_cosine():
    a = np.random.default_rng(3).normal(size=(2, 4, 4))
    assert diagnostics.anomaly_correlation(3.0 * a, a) == pytest.approx(1.0)
    assert diagnostics.anomaly_correlation(-a, a) == pytest.approx(-1.0)
    b = np.random.default_rng(4).normal(size=a.shape)
    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    assert diagnostics.anomaly_correlation(a, b) == pytest.approx(np.cos(angle), rel=1e-5)


@pytest.mark.parametrize(("kx", "ky", "ring"), [(3, 0, 3), (0, 5, 5), (3, 4, 5), (8, 0, 8), (7, 7, 8)])
def test_a_single_wave_has_its_variance_at_its_wavenumber(x64, kx, ky, ring):
    x = 2 * np.pi * np.arange(16) / 16
    spectrum = diagnostics.variance_spectrum(3.0 * np.cos(kx * x[None, :] + ky * x[:, None]))
    assert spectrum.shape == (9,)
    expected = np.zeros(9)
    expected[ring] = 9.0 if kx == 8 else 4.5  # cos is 1 or -1 at every point of the shortest wave
    np.testing.assert_allclose(spectrum, expected, atol=1e-12)


@pytest.mark.parametrize("n", [8, 16])
def test_a_spectrum_sums_to_the_mean_square(x64, n):
    field = 2.0 + np.random.default_rng(n).normal(size=(3, 2, n, n))
    spectrum = diagnostics.variance_spectrum(field)
    np.testing.assert_allclose(spectrum.sum(-1), (field**2).mean((-2, -1)), rtol=1e-12)
    np.testing.assert_allclose(spectrum[..., 0], field.mean((-2, -1)) ** 2, rtol=1e-12)
