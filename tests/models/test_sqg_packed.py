"""The packed step: it is `sqg.step`, number by number, and its spectra go back and forth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.models import sqg, sqg_packed
from jaxda.models.sqg import DAY, SQGConfig
from jaxda.numerics import timestep

CONFIGS = {
    "symmetric": SQGConfig(N=16),
    "at rest below, Ekman": SQGConfig(N=16, symmetric=False, r=50.0),
    "twice Ekman, no power of two": SQGConfig(N=12, dt=2400.0, diff_efold=DAY, r=100.0),
}


def noise(config, *shape):
    """White noise, which has all that a grid holds, the rows and columns N/2 too."""
    return 3000.0 * jax.random.normal(jax.random.key(3), (*shape, *config.shape))


def by_half_spectra(config, pv, n_steps):
    params = sqg.make_params(config)
    step = timestep.repeated(lambda qh: sqg.step(params, qh), n_steps)
    return jax.jit(lambda pv: jnp.fft.irfft2(step(jnp.fft.rfft2(pv))))(pv)


@pytest.mark.parametrize("name", CONFIGS)
def test_advance_is_the_step_of_half_spectra(x64, assert_near, name):
    config = CONFIGS[name]
    pv = noise(config)
    for n_steps in (1, 10):
        found = jax.jit(sqg.make_advance(config, n_steps))(pv)
        assert_near(found, by_half_spectra(config, pv, n_steps), 1e-13)


def test_a_tendency_of_one_forgotten_row_is_seen_by_these_tests(x64):
    """Row N/2 of half a weight is what the docstring says it is: with a whole one the result is another."""
    config = CONFIGS["symmetric"]
    params = sqg.make_params(config)
    whole = dataclasses.replace(params.packed, weight=jnp.where(params.packed.weight == 0.5, 1.0, params.packed.weight))
    found = sqg.advance(dataclasses.replace(params, packed=whole), noise(config), 1)
    expected = by_half_spectra(config, noise(config), 1)
    assert np.abs(found - expected).max() > 1e-6 * np.abs(expected).max()


def test_ensembles_are_advanced_member_by_member(x64, assert_near):
    config = CONFIGS["symmetric"]
    advance = jax.jit(sqg.make_advance(config, 2))
    members = noise(config, 2, 3)
    found = advance(members)
    assert_near(found[1, 2], advance(members[1, 2]), 1e-14)


def test_fields_go_to_spectra_and_back(x64, assert_near):
    pv = noise(CONFIGS["symmetric"], 2)
    spectrum = sqg_packed.packed(pv)
    assert spectrum.shape == (2, 17, 16)
    assert_near(sqg_packed.unpacked(spectrum), pv, 1e-14)


def test_the_conjugate_is_the_field_with_the_upper_boundary_turned(x64, assert_near):
    pv = noise(CONFIGS["symmetric"])
    turned = pv * jnp.array([1.0, -1.0])[:, None, None]
    assert_near(sqg_packed.conjugated(sqg_packed.packed(pv)), sqg_packed.packed(turned), 1e-14)


def test_without_dealiasing_the_half_spectra_are_stepped(x64, assert_near):
    config = SQGConfig(N=16, dealias=False)
    assert sqg.make_params(config).packed is None
    pv = noise(config)
    assert_near(jax.jit(sqg.make_advance(config, 3))(pv), by_half_spectra(config, pv, 3), 1e-14)
