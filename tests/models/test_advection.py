"""Induced velocities and moved fields, against closed forms and the SQG model."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxda.models import advection, sqg


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
