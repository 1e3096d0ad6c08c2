"""What training minimises: the error of a roll-out, in normalised units."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

#: (params, x, lead_time, keys=None) -> the state after the lead time; keys `(B,)`, one a sample, None in forecasts
Apply = Callable[..., Array]


def roll_out(
    apply: Apply, params, x: Array, lead_time: Array, steps: int, keys: Array | None = None, unrolled: bool = False
) -> Array:
    """States `(B, steps, ...)` after 1 .. steps leads, each forecast from the one before.

    Args:
        unrolled: no loop in the program. In the derivative of a `lax.scan` JAX moves what depends on the weights alone
            out of the loop: weights that are gathered from other devices would all be gathered first, and kept.
    """

    def on(state, number):
        own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        after = apply(params, state, lead_time, keys=own)
        return after, after

    if not unrolled:
        return jnp.moveaxis(jax.lax.scan(on, x, jnp.arange(steps))[1], 0, 1)
    states = []
    for number in range(steps):
        x, _ = on(x, number)
        states.append(x)
    return jnp.stack(states, 1)


def mean_square(forecast: Array, truth: Array) -> Array:
    """Mean squared error over everything."""
    return jnp.mean((forecast - truth) ** 2)


def spectral(forecast: Array, truth: Array) -> Array:
    """Mean squared difference of the logarithms of the spectral amplitudes, over all wavenumbers but zero.

    The mean squared error alone is least for a forecast that is too smooth where it does not know the phase. This term
    knows no phase, so it asks for the right energy at each scale. Amplitudes below 1e-3 of the
    truth's mean count as that.
    """
    amplitude = lambda x: jnp.abs(jnp.fft.rfft2(x.astype(jnp.float32), norm="forward"))
    of_truth = amplitude(truth)
    floor = 1e-3 * of_truth.mean((-1, -2), keepdims=True)
    difference = jnp.log(amplitude(forecast) + floor) - jnp.log(of_truth + floor)
    return jnp.mean(difference.at[..., 0, 0].set(0.0) ** 2)


def make_loss(apply: Apply, spectral_weight: float = 0.0) -> Callable:
    """A function (params, batch, keys) -> loss of the batch's roll-out, mean over its samples and leads."""

    def loss(params, batch, keys):
        forecast = roll_out(apply, params, batch.x, batch.lead_time, batch.y.shape[1], keys, unrolled=True)
        total = mean_square(forecast, batch.y)
        return total + spectral_weight * spectral(forecast, batch.y) if spectral_weight else total

    return loss
