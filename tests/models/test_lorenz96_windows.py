"""Windows of Lorenz-96 against the model on the whole ring and JAX's own derivative of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.models import lorenz96, lorenz96_windows
from jaxda.models.lorenz96 import Lorenz96Config


@pytest.mark.parametrize(("steps", "platform"), [(1, "cpu"), (1, "cuda"), (3, "cpu")])
@pytest.mark.usefixtures("x64")
def test_a_window_has_the_model_and_its_gradient(assert_near, steps, platform):
    config = Lorenz96Config(dim=200, dt=0.01, forcing=7.0)
    x = 3.0 * jax.random.normal(jax.random.key(0), config.shape)
    slope = jax.random.normal(jax.random.key(1), config.shape)
    expected, transpose = jax.vjp(lorenz96.make_advance(config, steps), x)
    forward, backward = lorenz96_windows.make_window(config, steps, platform)
    first, count, halo = 30, 100, lorenz96_windows.halo(steps)
    window = x[first : first + count]
    after, stages = forward(window)
    start = first + steps * lorenz96_windows.LEFT
    assert_near(after, expected[start : start + count - halo], 1e-14)
    gradient = backward(stages, slope[start : start + count - halo])
    assert_near(gradient, transpose(slope)[0][first + halo : first + count - halo], 1e-14)


def test_ten_steps_in_single_precision(assert_near):
    config = Lorenz96Config(dim=300, dt=0.01)
    x = 3.0 * jax.random.normal(jax.random.key(0), config.shape)
    forward, _ = lorenz96_windows.make_window(config, 10, "cpu")
    after = jax.jit(lambda x: forward(x)[0])(x)
    assert_near(after, np.asarray(lorenz96.make_advance(config, 10)(x))[80:-40], 2e-6)


def test_each_stage_is_a_loop_of_its_own():
    forward, backward = lorenz96_windows.make_window(Lorenz96Config(dim=400, dt=0.01), 2, "cpu")
    gradient = lambda x: (lambda after, stages: backward(stages, after))(*forward(x))
    text = jax.jit(gradient).lower(jnp.zeros(400)).compile().as_text()
    assert text.count(" call(") == 16
