"""Spectra of fields and of an ensemble, and the wavelength that an analysis resolves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import diagnostics
from jaxda.models import sqg


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


N = 16
MODEL = sqg.SQGConfig(N=N)


def test_spectra_are_those_of_temperature_and_of_the_wind(x64):
    pv = jax.random.normal(jax.random.key(0), (3, 2, N, N))
    temperature, energy = jnp.moveaxis(diagnostics.make_spectra(MODEL)(pv), -2, 0)
    expected = ((MODEL.kelvin * np.asarray(pv)) ** 2).mean((-3, -2, -1))
    np.testing.assert_allclose(temperature.sum(-1), expected, rtol=1e-12)
    expected = sqg.kinetic_energy_spectrum(sqg.make_params(MODEL), pv).mean(-2)
    np.testing.assert_allclose(energy, expected, rtol=1e-12)


@pytest.mark.parametrize("members", [2, 8])
def test_parts_are_of_truth_mean_error_and_spread(x64, members):
    """The spread's, on average over ensembles, is that of all members with M - 1 degrees of freedom."""
    states = jax.random.normal(jax.random.key(1), (400, members + 1, 2, N, N))
    spectra = jax.jit(diagnostics.make_spectra(MODEL))
    truth, mean, error, spread = jax.jit(jax.vmap(lambda own: diagnostics.parts_of(spectra, own[1:], own[0])))(
        states
    ).swapaxes(0, 1)
    np.testing.assert_allclose(truth[0], spectra(states[0, 0]), rtol=1e-12)
    np.testing.assert_allclose(mean[0], spectra(states[0, 1:].mean(0)), rtol=1e-12)
    np.testing.assert_allclose(error[0], spectra(states[0, 1:].mean(0) - states[0, 0]), rtol=1e-12)
    apart = states[:, 1:] - states[:, 1:].mean(1, keepdims=True)
    every = jax.lax.map(spectra, apart.reshape(-1, 2, N, N)).reshape(400, members, 2, -1).sum(1) / (members - 1)
    np.testing.assert_allclose(spread.mean(0)[..., 1:], every.mean(0)[..., 1:], rtol=0.1)
    ratio = (spread.mean(0) / error.mean(0))[..., 1:]  # members and truth alike
    np.testing.assert_allclose(ratio, members / (members + 1), rtol=0.1)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_the_effective_wavelength_is_where_power_laws_cross(x64, ratio):
    """Truth k^-3, error c k^2: c k^5 is the ratio at k = (ratio/c)^(1/5)."""
    wave = np.arange(33.0)
    wave[0] = 1.0
    for crossing in (2.0, 5.5, 17.3):
        error = ratio * crossing**-5 * wave**2
        found = diagnostics.effective_wavelength(jnp.asarray(error), jnp.asarray(wave**-3), 20_000.0, ratio)
        assert float(found) == pytest.approx(20_000.0 / crossing, rel=1e-9)


def test_all_or_nothing_may_be_resolved(x64):
    truth = jnp.ones(17)
    found = jax.jit(diagnostics.effective_wavelength)
    assert float(found(0.1 * truth, truth, 32.0)) == 2.0  # two grid spacings
    assert float(found(0.0 * truth, truth, 32.0)) == 2.0
    assert float(found(2.0 * truth, truth, 32.0)) == np.inf
    assert float(found(truth.at[5:].set(jnp.nan) * 0.1, truth, 32.0)) == pytest.approx(32.0 / 4.0, rel=0.2)
