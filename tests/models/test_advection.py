"""Induced velocities and moved fields, against closed forms and the SQG model."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxda.models import advection, sqg
from jaxda.numerics import spectral


def wave(n, k, l, phase=0.3):
    places = 2 * np.pi * np.arange(n) / n
    return jnp.asarray(np.cos(k * places[None, :] + l * places[:, None] + phase))


@pytest.mark.parametrize(("k", "l"), [(1, 0), (0, 3), (2, -5), (7, 7)])
def test_a_wave_induces_the_velocity_of_its_streamfunction(x64, assert_near, k, l):
    """psi = q/|k|, u = -dpsi/dy, v = dpsi/dx, of cos(kx + ly + phase)."""
    u, v = advection.induced_velocities(wave(32, k, l))
    sine = wave(32, k, l, 0.3 - np.pi / 2)
    size = np.hypot(k, l)
    np.testing.assert_allclose(u, l / size * sine, atol=1e-13)
    np.testing.assert_allclose(v, -k / size * sine, atol=1e-13)


def test_short_waves_of_the_upper_boundary_move_as_in_the_model(x64, assert_near, band_limited):
    """The model's rotational velocity there is f/N times these; H/mu = f/(N K) and the other boundary is far."""
    model = sqg.SQGConfig(N=32, L=2e6, dt=300.0)  # one wave is two Rossby radii long, so mu is over 3
    params = sqg.make_params(model, jnp.float64)
    x = jnp.asarray(band_limited(1, 32))
    psi = jnp.fft.rfft2(x) * params.to_self
    by_model = jnp.fft.irfft2(-1j * params.l[:, None] * psi, s=(32, 32))
    u, _ = advection.induced_velocities(x)
    assert_near(u * np.sqrt(model.f**2 / model.nsq), by_model, 0.01)


def inversion_of(model):
    """The model's own velocities at whole wavenumbers, in the unit of learned ones, with days as the unit of time."""
    size = np.arange(1, advection.wavenumbers(model.N)) * 2 * np.pi / model.L
    mu = size * np.sqrt(model.nsq) * model.H / model.f
    own, other = (size * model.H / (mu * part) for part in (np.tanh(mu), np.sinh(mu)))
    table = np.array([[-own, other], [-other, own]]) * model.jacobian_factor * sqg.DAY / model.L / advection.SPEED
    return jnp.asarray(np.concatenate([np.zeros((2, 2, 1)), table], 2))


@pytest.mark.parametrize(("k", "l"), [(3, 4), (0, 2), (-5, 12)])
def test_an_inversion_has_what_each_boundary_does_to_each(x64, assert_near, k, l):
    """The model's velocities, of waves at both boundaries whose |k| is whole, so nothing is interpolated."""
    model = sqg.SQGConfig(N=32)
    params = sqg.make_params(model, jnp.float64)
    x = jnp.stack([wave(32, k, l), -0.4 * wave(32, k, l, 1.1)])[None]
    psi = sqg.invert(params, jnp.fft.rfft2(x))
    scale = model.jacobian_factor * sqg.DAY / model.L / advection.SPEED
    expected = [jnp.fft.irfft2(turn * psi, s=(32, 32)) for turn in (-1j * params.l[:, None], 1j * params.k)]
    for found, velocity in zip(advection.induced_velocities(x, inversion_of(model)), expected):
        assert_near(found, scale * velocity, 1e-12)


def test_without_an_inversion_each_field_moves_itself_alone(assert_near, band_limited):
    x = jnp.asarray(band_limited(2, 32, shape=(1, 2)), jnp.float32)
    alone = jnp.broadcast_to(jnp.eye(2)[:, :, None], (2, 2, advection.wavenumbers(32)))
    for found, expected in zip(advection.induced_velocities(x, alone), advection.induced_velocities(x)):
        assert_near(found, expected, 1e-6)


def test_between_whole_wavenumbers_an_inversion_is_nearly_the_models(x64, assert_near):
    """|k| = sqrt 2, where the interpolation is worst: x coth x has the curvature 2/3 at 0, so 1/8 2/3 (2 pi/20)^2."""
    model = sqg.SQGConfig(N=32)
    params = sqg.make_params(model, jnp.float64)
    x = jnp.stack([wave(32, 1, 1), 0.0 * wave(32, 1, 1)])[None]
    psi = sqg.invert(params, jnp.fft.rfft2(x))
    expected = (
        model.jacobian_factor * sqg.DAY / model.L / advection.SPEED * jnp.fft.irfft2(1j * params.k * psi, s=(32, 32))
    )
    assert_near(advection.induced_velocities(x, inversion_of(model))[1], expected, 2 / 3 / 8 * (np.pi / 10) ** 2)


def test_the_first_guess_is_what_the_model_does_without_forcing(x64):
    """Half a day in one, two and four steps, each better than the one before."""
    model = sqg.SQGConfig(N=64, tdiab=1e20, diff_efold=1e20, dt=675.0)
    waves = [(1, 0), (0, 2), (-3, 0), (0, 1), (3, 4)]
    x = 30.0 * jnp.stack([sum(wave(64, k, l, phase * (k + 2.0 * l)) for k, l in waves) for phase in (0.7, 1.9)])[None]
    truth = sqg.make_advance(model, 64, jnp.float64)(x)

    def error(steps):
        guess = advection.first_guess(x, inversion_of(model), jnp.full(1, 0.5), steps)
        return float(jnp.sqrt(jnp.mean((guess - truth) ** 2) / jnp.mean((truth - x) ** 2)))

    errors = [error(steps) for steps in (1, 2, 4)]
    assert errors[0] < 0.005
    assert all(before / after > 1.5 for before, after in pairwise(errors))


def test_a_first_guess_of_nothing_is_the_state(assert_near, band_limited):
    """But for waves of half of the grid's points, which have no place on a finer one."""
    x = jnp.asarray(band_limited(1, 16, shape=(3, 2)), jnp.float32)
    nothing = jnp.zeros((2, 2, advection.wavenumbers(16)))
    assert_near(advection.first_guess(x, nothing, jnp.ones(3), 2), x, 1e-6)


def test_a_streamfunction_of_the_state_moves_nothing(x64, assert_near):
    """psi = c q is constant along the flow that it makes: J(q, q) = 0. So inversions are known up to c |k|."""
    n = 64
    x = jnp.stack([wave(n, 1, 2) + wave(n, -2, 1, 1.0), wave(n, 3, 0)])[None]
    own = 0.2 / advection.SPEED * jnp.eye(2)[:, :, None] * jnp.arange(advection.wavenumbers(n))
    velocity = advection.induced_velocities(x, own)[0]
    assert jnp.abs(velocity).max() * advection.SPEED * 0.1 * n > 2.0  # in grid points
    assert_near(advection.first_guess(x, own, jnp.full(1, 0.1), 4), x, 0.01)


def test_a_shear_folds_a_wave_into_what_the_grid_can_hold(x64):
    """One boundary's jet cos(2y) carries the wave cos(12x) of the other: its rows get phases 12 d(y), so its spectrum
    along y the Bessel functions of 12 d, which must be cut at the grid's own waves, not folded back into them."""
    n, strength = 32, 0.15
    jet, passive = wave(n, 0, 2, 0.0), wave(n, 12, 0, 0.0)
    inversion = jnp.zeros((2, 2, advection.wavenumbers(n))).at[:, 0].set(strength / advection.SPEED)
    x = jnp.stack([jet, passive])[None]
    found = advection.first_guess(x, inversion, jnp.ones(1), 1)[0, 1]
    fine = 8 * n
    places = 2 * np.pi * np.arange(fine) / fine
    displacement = strength * 2 * np.pi * np.sin(2 * places)[:, None]  # u = sin 2y of psi = cos(2y)/2
    expected = spectral.resample(jnp.asarray(np.cos(12 * (places[None, :] - displacement))), n)
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    x, y = (2 * np.pi * np.arange(n) / n,) * 2
    folded = np.cos(12 * (x[None, :] - strength * 2 * np.pi * np.sin(2 * y)[:, None]))
    without = np.sqrt(np.mean((folded - expected) ** 2) / np.mean(expected**2))
    assert error < 0.1 < 0.5 < without


def test_between_points_a_linear_move_is_their_mean():
    x = jax.random.normal(jax.random.key(2), (1, 2, 8, 8))
    half = jnp.full_like(x, 0.5)
    found = advection.moved_linearly(x, half, 3.0 + 0.0 * half)
    expected = jnp.roll(x + jnp.roll(x, 1, -1), 3, -2) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(st.integers(-20, 20), st.integers(-20, 20))
def test_whole_displacements_are_exact(right, up):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8, 8)), jnp.float32)
    found = advection.moved(x, jnp.full_like(x, right), jnp.full_like(x, up))
    np.testing.assert_allclose(found, jnp.roll(x, (up, right), (-2, -1)), atol=2e-6)


@given(st.floats(-9.0, 9.0), st.floats(-9.0, 9.0))
def test_a_smooth_wave_is_moved_to_fourth_order(right, up):
    """The error of a cubic spline is at most 5/384 (kh)^4 along one axis (Hall & Meyer 1976); here k h = 2 pi/32."""
    x = wave(32, 1, 1)
    size = jnp.ones_like(x)
    found = advection.moved(x, right * size, up * size)
    expected = wave(32, 1, 1, 0.3 - 2 * np.pi * (right + up) / 32)
    bound = 2 * 5 / 384 * (2 * np.pi / 32) ** 4
    assert np.abs(found - expected).max() < bound + 1e-5  # single precision: places up to 41, 4e-6 each


def test_half_a_point_hardly_damps_a_wave_of_four_points(x64):
    """By the spline's response at half a point, (23 c1 + c3)/(8 (2 + c2)) with c_j = cos(j k h/2), at k h = pi/2."""
    x = wave(32, 8, 0)
    found = advection.moved(x, jnp.full_like(x, 0.5), jnp.zeros_like(x))
    c = [np.cos(j * np.pi / 4) for j in range(4)]
    expected = (23 * c[1] + c[3]) / (8 * (2 + c[2]))
    assert np.abs(found).max() == pytest.approx(expected * np.abs(wave(32, 8, 0, 0.3 - np.pi / 4)).max(), rel=1e-12)
    assert 0.97 < expected < 1.0


def test_each_place_has_its_own_displacement(x64, assert_near):
    """A displacement that varies: a wave at (X - d(X)), by the closed form."""
    n = 64
    places = np.arange(n)
    along_x = jnp.asarray(1.5 * np.sin(2 * np.pi * places / n)[:, None] * np.ones((1, n)))
    along_y = jnp.asarray(0.7 * np.cos(2 * np.pi * places / n)[None, :] * np.ones((n, 1)))
    found = advection.moved(wave(n, 2, 1), along_x, along_y)
    x, y = places[None, :] - along_x, places[:, None] - along_y
    assert_near(found, np.cos(2 * np.pi * (2 * x + y) / n + 0.3), 2 * 5 / 384 * (4 * np.pi / n) ** 4)


def test_it_has_a_gradient_by_field_and_displacement(x64):
    x = wave(16, 2, 1)
    loss = lambda x, d: jnp.sum(advection.moved(x, d, 0.5 * d) ** 3)
    check_grads(loss, (x, jnp.full_like(x, 0.3)), order=1, modes=("rev", "fwd"))
