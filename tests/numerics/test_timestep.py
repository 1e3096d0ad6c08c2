"""Time stepping: the order of RK4 on an equation with a closed solution, and scans against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.numerics import timestep


def test_rk4_converges_at_fourth_order(x64):
    rate = np.array([0.7, 1.0, 1.9])
    x0 = np.array([0.1, 0.5, 1.6])
    exact = 1.0 / (1.0 + (1.0 / x0 - 1.0) * np.exp(-rate * 2.0))  # logistic growth at time 2

    def error(n_steps):
        step = timestep.rk4(lambda x: rate * x * (1.0 - x), 2.0 / n_steps)
        return np.abs(timestep.repeated(step, n_steps)(jnp.asarray(x0)) - exact)

    order = np.log2(error(20) / error(40))
    assert np.all((order > 3.8) & (order < 4.3)), order


@pytest.mark.parametrize("dt", [0.1, 0.7])
def test_rk4_is_the_taylor_polynomial_of_a_linear_equation(x64, assert_near, dt):
    a = np.array([[-0.3, 1.0, 0.2], [-1.0, -0.1, 0.0], [0.4, 0.0, -0.5]])
    polynomial = sum(np.linalg.matrix_power(dt * a, p) / f for p, f in enumerate([1, 1, 2, 6, 24]))
    x = np.array([1.0, -2.0, 0.5])
    assert_near(timestep.rk4(lambda x: a @ x, dt)(x), polynomial @ x, 1e-14)


def collatz(x):
    """A step in integers, where a missing or repeated application cannot hide in round-off."""
    return jnp.where(x % 2 == 0, x // 2, 3 * x + 1)


def loop(x, n_steps):
    states = [x]
    for _ in range(n_steps):
        states.append(np.where(states[-1] % 2 == 0, states[-1] // 2, 3 * states[-1] + 1))
    return np.stack(states)


@pytest.mark.parametrize("n_steps", [0, 1, 9])
def test_repeated_is_a_loop(n_steps):
    start = np.arange(20, 32).reshape(3, 4)
    result = jax.jit(timestep.repeated(collatz, n_steps))(start)
    np.testing.assert_array_equal(result, loop(start, n_steps)[-1])


@pytest.mark.parametrize(("n_saved", "n_between"), [(1, 1), (4, 1), (3, 5)])
def test_trajectory_saves_the_states_of_a_loop_without_the_start(n_saved, n_between):
    start = np.arange(20, 32)
    last, series = timestep.trajectory(collatz, n_saved, n_between)(start)
    np.testing.assert_array_equal(series, loop(start, n_saved * n_between)[n_between::n_between])
    np.testing.assert_array_equal(last, series[-1])
