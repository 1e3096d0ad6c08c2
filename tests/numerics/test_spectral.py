"""Transforms against closed forms: sines have known derivatives, band-limited fields are resampled exactly."""

import jax
import numpy as np
import pytest

from jaxda.numerics import spectral

GRIDS = [(10, 10), (10, 15), (16, 16), (16, 24), (16, 40), (22, 33)]  # n/2 odd and even, the 3/2 rule's odd sizes


def coordinates(n, length=2 * np.pi):
    x = length * np.arange(n) / n
    return x[None, :], x[:, None]


@pytest.mark.parametrize(("n", "n_fine"), GRIDS)
@pytest.mark.parametrize(("a", "b"), [(3, 2), (2, -4)])
def test_gradient_of_a_sine_is_exact(x64, assert_near, n, n_fine, a, b):
    length = 5.0
    unit = 2 * np.pi / length
    phase = lambda x, y: unit * (a * x + b * y) + 0.3
    spectrum = np.fft.rfft2(np.sin(phase(*coordinates(n, length))))
    dx, dy = spectral.gradient(spectrum, *spectral.wavenumbers(n, length), n_fine)
    slope = unit * np.cos(phase(*coordinates(n_fine, length)))
    assert np.abs(dx - a * slope).max() < 1e-13 * n
    assert np.abs(dy - b * slope).max() < 1e-13 * n


@pytest.mark.parametrize("n_fine", [16, 24])
def test_the_column_of_half_the_grid_has_slopes_on_its_own_grid_alone(x64, n_fine):
    x, y = coordinates(16)
    dx, dy = spectral.gradient(
        np.fft.rfft2(np.cos(8 * x) * np.sin(2 * y)), *spectral.wavenumbers(16, 2 * np.pi), n_fine
    )
    assert np.abs(dx).max() < 1e-12
    expected = 2 * np.cos(8 * x) * np.cos(2 * y) if n_fine == 16 else np.zeros((n_fine, n_fine))
    np.testing.assert_allclose(dy, expected, atol=1e-12)


@pytest.mark.parametrize(("n", "n_fine"), GRIDS)
def test_truncated_spectrum_is_the_coarse_spectrum(x64, assert_near, n, n_fine):
    wave = lambda x, y: 1.5 + np.sin(4 * x - 3 * y) + np.cos(2 * y + 1.0) - np.sin(x + 4 * y)
    coarse, fine = wave(*coordinates(n)), wave(*coordinates(n_fine))
    assert_near(spectral.truncated_spectrum(fine, n), np.fft.rfft2(coarse), 1e-14)


def test_truncated_spectrum_leaves_out_what_the_coarse_grid_cannot_hold(x64):
    x, y = coordinates(24)
    unresolved = np.cos(8 * x) + np.sin(9 * y) + np.cos(10 * x - 2 * y)
    assert np.abs(spectral.truncated_spectrum(unresolved, 16)).max() < 1e-11


@pytest.mark.parametrize(("n", "multiple"), [(10, 1), (10, 2), (10, 5), (16, 3), (22, 3)])
def test_resampling_up_passes_through_the_points_and_down_again_is_the_identity(
    x64, assert_near, band_limited, n, multiple
):
    field = band_limited(1, n, shape=(2,)) + 0.7
    fine = spectral.resample(field, multiple * n)
    assert_near(fine[..., ::multiple, ::multiple], field, 1e-13)
    assert_near(spectral.resample(fine, n), field, 1e-13)


def test_resampling_down_keeps_the_mean_and_the_large_waves(x64, assert_near, band_limited):
    smooth = band_limited(2, 36, limit=5)
    noise = band_limited(3, 36) - spectral.resample(spectral.resample(band_limited(3, 36), 10), 36)
    assert_near(spectral.resample(2.0 + smooth + noise, 10), 2.0 + spectral.resample(smooth, 10), 1e-13)
    assert_near(spectral.resample(spectral.resample(smooth, 10), 36), smooth, 1e-13)


@pytest.mark.parametrize("n", [10, 16])
def test_rings_of_the_isotropic_spectrum_sum_to_the_mean_square(x64, assert_near, n):
    field = np.random.default_rng(4).normal(0.5, 1.0, size=(3, n, n))
    rings = spectral.isotropic_spectrum(np.abs(np.fft.rfft2(field)) ** 2 / n**4, n)
    assert_near(rings.sum(-1), (field**2).mean((-2, -1)), 1e-13)
    assert_near(rings[:, 0], field.mean((-2, -1)) ** 2, 1e-13)


@pytest.mark.parametrize(("a", "b", "ring"), [(3, 0, 3), (0, 3, 3), (3, -4, 5), (2, 2, 3), (7, 7, 8), (8, 0, 8)])
def test_a_wave_falls_into_the_ring_of_its_wavenumber(x64, assert_near, a, b, ring):
    x, y = coordinates(16)
    wave = np.cos(a * x + b * y)
    rings = spectral.isotropic_spectrum(np.abs(np.fft.rfft2(wave)) ** 2 / 16**4, 16)
    assert_near(rings, np.where(np.arange(9) == ring, (wave**2).mean(), 0.0), 1e-14)


@pytest.mark.parametrize("n", [10, 16])
def test_three_halves_padding_dealiases_a_product(x64, assert_near, band_limited, n):
    a, b = band_limited(5, n, shape=(2,))
    product = lambda m: spectral.truncated_spectrum(spectral.resample(a, m) * spectral.resample(b, m), n)
    exact = product(2 * n)  # holds every wave of the product, which ends below n
    assert_near(product(3 * n // 2), exact, 1e-13)
    aliased = np.abs(product(n) - exact)[:, : n // 2]  # the column n/2 is empty on padded grids by convention
    assert aliased.max() > 0.05 * np.abs(exact).max()


def test_single_precision_stays_single(band_limited):
    spectrum = spectral.truncated_spectrum(band_limited(6, 24).astype(np.float32), 16)
    k, l = (a.astype(np.float32) for a in spectral.wavenumbers(16, 1.0))
    assert spectrum.dtype == np.complex64
    assert all(d.dtype == np.float32 for d in jax.jit(spectral.gradient, static_argnums=3)(spectrum, k, l, 24))
