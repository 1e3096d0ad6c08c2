"""The drift: waves, the Gaussian algebra against integrals, and what is found where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.filters import drift as drifts
from jaxda.filters.drift import make_drift
from jaxda.filters.localization import Geometry
from jaxda.observations import FUNCTIONS, Operator

IDENTITY = FUNCTIONS["identity"](1.0)

SHAPE = (2, 16, 16)
GEOMETRY = Geometry(SHAPE, 1000.0, 1000.0)
KEY = jax.random.key(0)


def drift_of(operator, mean=0.0, cutoff=3000.0, odds=1e-3):
    """The drift as a function of all but the forecast's mean."""
    find = jax.jit(make_drift(GEOMETRY, operator, cutoff, odds))
    return lambda key, *observed: find(key, jnp.broadcast_to(jnp.asarray(mean, float), SHAPE), *observed)


def innovations_with(wave, seed=0, size=0.3):
    """Innovations of unit error, the drift given, and 10 members of small spread at all points."""
    rng = np.random.default_rng(seed)
    y = size * rng.normal(size=(10, *SHAPE)) / 3.0
    return jnp.asarray(wave + rng.normal(size=SHAPE)), jnp.ones(SHAPE), jnp.asarray(y)


def jet(amplitude):
    """A wave along y of opposite sign at the boundaries."""
    along_y = np.cos(2 * np.pi * np.arange(16) / 16)[:, None]
    return amplitude * np.stack([along_y, -along_y]) * np.ones(SHAPE)


@pytest.mark.parametrize(("columns", "highest", "count"), [((16, 16), 2, 13), ((40,), 1, 3), ((16, 8), 2, 7)])
def test_waves_are_orthonormal_and_complete(columns, highest, count):
    factors, shell = drifts.waves(columns, highest)
    fields = np.prod(
        [
            f.reshape(*[-1 if a == i else 1 for a in range(len(columns))], f.shape[1]) * np.ones((*columns, 1))
            for i, f in enumerate(factors)
        ],
        axis=0,
    ).reshape(-1, len(shell))
    np.testing.assert_allclose(fields.T @ fields / len(fields), np.eye(len(shell)), atol=1e-12)
    assert len(shell) == count
    assert shell.max() == highest


def test_a_wave_gets_its_posterior_mean_and_lacks_the_variance_of_theory(x64):
    a = np.array([[0.5, -0.2, 1.0]])
    members, noise = np.array([[0.1, 0.02, 0.3]]), np.array([[0.05, 0.1, 0.02]])
    mean, lacking = drifts.measured(*map(jnp.asarray, (a, members, noise)), np.zeros(3, int), 0.2)
    count = drifts.HALVINGS
    s = 2 * (a**2).mean() * np.array([0.0, *0.5 ** np.arange(count)])[:, None]
    prior = np.array([0.8, *[0.2 / count] * count])
    total = s + (members + noise)[0]
    weight = prior * np.prod(np.exp(-0.5 * a[0] ** 2 / total) / np.sqrt(total), axis=1)
    weight /= weight.sum()
    np.testing.assert_allclose(mean[0], weight @ (s / total) * a[0], rtol=1e-12)
    after = lambda before: before * noise[0] / (before + noise[0])
    np.testing.assert_allclose(lacking[0], weight @ (after(members[0] + s) - after(members[0])), rtol=1e-12)


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_a_drift_is_found_where_there_is_one(x64, fraction):
    truth = jet(1.0)
    innovation, variance, y = innovations_with(truth)
    seen = np.random.default_rng(5).uniform(size=SHAPE) < fraction
    found = drift_of(Operator(SHAPE, IDENTITY))(KEY, innovation, jnp.where(seen, variance, jnp.inf), y)
    # 8 waves of the jet's length at each boundary, each known to 1/256/fraction
    assert np.sqrt(((found.mean - truth) ** 2).mean()) < 1.2 * np.sqrt(8 / 256 / fraction)


def test_no_drift_is_found_where_there_is_none(x64):
    drift = drift_of(Operator(SHAPE, IDENTITY))
    sizes = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        innovation, variance, y = innovations_with(0.0, seed)
        error = np.einsum("m...,m->...", np.asarray(y), rng.normal(size=len(y)))
        found = drift(KEY, innovation + error, variance, y)
        sizes.append([np.sqrt((found.mean**2).mean()), np.asarray(found.members).std()])
    assert np.median(sizes, 0).max() < 0.01
    assert np.mean(sizes, 0).max() < 0.03


def test_members_have_mean_zero_and_the_lacking_spread(x64):
    innovation, variance, y = innovations_with(jet(1.0))
    drift = drift_of(Operator(SHAPE, IDENTITY))
    members = np.stack([drift(jax.random.key(k), innovation, variance, y).members for k in range(50)])
    np.testing.assert_allclose(members.mean(1), 0.0, atol=1e-12)
    # r = 1/256 for each of the eight waves of the jet's length, and the members know little of them
    assert 0.7 * 8 / 256 < members.var(1, ddof=1).mean() < 1.6 * 8 / 256  # the jet makes r larger too


def mean_and_what_is_left_of_it(share, seed=0):
    """A mean whose scales from wavenumber 4 on the truth keeps a share of, and the truth."""
    mean = 3.0 * np.random.default_rng(seed).normal(size=SHAPE)
    k = np.hypot(np.fft.fftfreq(16, 1 / 16)[:, None], np.fft.fftfreq(16, 1 / 16))
    return mean, np.fft.ifft2(np.fft.fft2(mean) * np.where(k >= 4, share, 1.0)).real


@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_scales_that_the_model_makes_up_are_faded(x64, fraction):
    mean, truth = mean_and_what_is_left_of_it(0.5)
    innovation, variance, y = innovations_with(truth - mean)
    seen = np.random.default_rng(5).uniform(size=SHAPE) < fraction
    found = drift_of(Operator(SHAPE, IDENTITY), mean)(KEY, innovation, jnp.where(seen, variance, jnp.inf), y).mean
    left = lambda x: np.sqrt(((truth - x) ** 2).mean())
    # seven bands at each boundary, each known to 1/256/fraction
    assert left(mean + found) < 0.35 * left(mean)


def test_scales_that_the_model_knows_stay(x64):
    mean, truth = mean_and_what_is_left_of_it(1.0)
    drift = drift_of(Operator(SHAPE, IDENTITY), mean)
    sizes = [np.asarray(drift(KEY, *innovations_with(truth - mean, seed)).mean).std() for seed in range(20)]
    assert np.median(sizes) < 0.01
    assert np.mean(sizes) < 0.03


def test_bands_are_orthonormal_and_sum_to_the_scales_below_an_eighth(x64):
    mean, _ = mean_and_what_is_left_of_it(1.0)
    basis = drifts.of_bands(GEOMETRY, Operator(SHAPE, IDENTITY), jnp.asarray(mean))
    fields = np.stack([basis.field(jnp.ones((2, 1)) * (np.arange(7) == j)) for j in range(7)])
    np.testing.assert_allclose(np.einsum("jlyx,klyx->ljk", fields, fields) / 256, [np.eye(7)] * 2, atol=1e-12)
    amplitude = basis.project(jnp.asarray(mean)) / 256
    k = np.hypot(np.fft.fftfreq(16, 1 / 16)[:, None], np.fft.fftfreq(16, 1 / 16))
    np.testing.assert_allclose(basis.field(amplitude), np.fft.ifft2(np.fft.fft2(mean) * (k >= 2)).real, atol=1e-12)


def test_off_the_grid_and_in_one_half_only(x64):
    rng = np.random.default_rng(3)
    positions = np.stack([rng.integers(0, 2, 400), rng.uniform(0, 8, 400), rng.uniform(0, 16, 400)], 1)
    operator = Operator(SHAPE, IDENTITY, positions)
    truth = jet(2.0)
    innovation = operator.interpolate(jnp.asarray(truth)) + 0.1 * rng.normal(size=400)
    y = 0.02 * rng.normal(size=(10, 400))
    found = np.asarray(drift_of(operator)(KEY, innovation, jnp.full(400, 0.01), jnp.asarray(y)).mean)
    assert np.sqrt(((found - truth)[:, 1:7] ** 2).mean()) < 0.3
    assert np.abs(found).max() < 4.0


def test_nothing_observed_is_no_drift(x64):
    innovation, _, y = innovations_with(jet(1.0))
    found = drift_of(Operator(SHAPE, IDENTITY))(KEY, innovation, jnp.full(SHAPE, jnp.inf), y)
    np.testing.assert_array_equal(found.mean, 0.0)
    np.testing.assert_allclose(found.members, 0.0, atol=1e-100)


def test_an_outlier_moves_no_wave(x64):
    innovation, variance, y = innovations_with(jet(1.0))
    drift = drift_of(Operator(SHAPE, IDENTITY))
    before = drift(KEY, innovation, variance, y).mean
    after = drift(KEY, innovation.at[0, 3, 5].set(1e4), variance, y).mean
    # one datum of 512, counted as three standard deviations
    assert np.abs(after - before).max() < 0.2


@pytest.mark.parametrize("cutoff", [np.inf, 9000.0])
def test_neighbourhoods_that_see_everything_need_none(cutoff):
    assert make_drift(GEOMETRY, Operator(SHAPE, IDENTITY), cutoff, 1e-3) is None
