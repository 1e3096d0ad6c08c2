"""Lorenz-96: rest state, energy budget, cyclic symmetry, order of the time stepping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jaxda.models import lorenz96
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.numerics import timestep

DIMS = pytest.mark.parametrize("dim", [4, 40, 1000])


def states(dim, members=3):
    return 2.0 + 3.0 * np.random.default_rng(dim).normal(size=(members, dim))


def test_tendency_follows_the_equation(x64, assert_near):
    x = states(7)[0]
    expected = [(x[(i + 1) % 7] - x[i - 2]) * x[i - 1] - x[i] + 5.0 for i in range(7)]
    assert_near(lorenz96.tendency(lorenz96.make_params(Lorenz96Config(dim=7, forcing=5.0)), x), expected, 1e-15)


@DIMS
def test_the_rest_state_stays(dim):
    config = Lorenz96Config(dim=dim, forcing=6.5)
    rest = jnp.full((2, dim), 6.5)
    np.testing.assert_array_equal(lorenz96.make_advance(config, 10)(rest), rest)


@DIMS
def test_advection_makes_no_energy(x64, dim):
    x = states(dim)
    production = (x * lorenz96.tendency(lorenz96.make_params(Lorenz96Config(dim=dim)), x)).sum(-1)
    np.testing.assert_allclose(production, (8.0 * x - x**2).sum(-1), atol=1e-12 * (np.abs(x) ** 3).sum())


@DIMS
def test_shift_commutes_with_the_step(x64, assert_near, dim):
    advance = jax.jit(lorenz96.make_advance(Lorenz96Config(dim=dim), 5))
    x = states(dim)
    assert_near(advance(np.roll(x, 3, -1)), np.roll(advance(x), 3, -1), 1e-13)


def test_members_do_not_see_each_other(x64, assert_near):
    advance = jax.jit(lorenz96.make_advance(Lorenz96Config(), 5))
    x = states(40)
    assert_near(advance(x), np.stack([advance(member) for member in x]), 1e-14)


def test_time_stepping_is_of_fourth_order(x64):
    x = states(40)[0]
    after = lambda n: lorenz96.make_advance(Lorenz96Config(dt=0.4 / n), n)(jnp.asarray(x))
    errors = [np.abs(after(n) - after(640)).max() for n in (20, 40, 80)]
    assert np.log2(errors[0] / errors[1]) > 3.7
    assert 3.8 < np.log2(errors[1] / errors[2]) < 4.3


def test_spin_up_reaches_the_attractor():
    config = Lorenz96Config()
    advance = timestep.trajectory(lorenz96.make_advance(config, 4), 1000, 1)
    series = jax.jit(advance)(lorenz96.initial_state(jax.random.key(0), config))[1][250:]
    assert series.mean() == pytest.approx(2.35, abs=0.15)  # climatology at F = 8: mean 2.3, standard deviation 3.6
    assert series.std() == pytest.approx(3.64, abs=0.15)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dt": 0.2}, ["dt = 0.2", "use dt <= 0.12"]),
        ({"forcing": 16.0, "dt": 0.1}, ["dt = 0.1", "use dt <= 0.06"]),
        ({"dt": 0.0}, ["dt", "greater than 0"]),
        ({"dim": 3}, ["dim", "3", "greater than or equal to 4"]),
        ({"dimension": 40}, ["dimension", "Unexpected keyword"]),
    ],
)
def test_bad_settings_are_refused(given, words):
    with pytest.raises(ValidationError) as refusal:
        Lorenz96Config(**given)
    assert all(word in str(refusal.value) for word in words), refusal.value
