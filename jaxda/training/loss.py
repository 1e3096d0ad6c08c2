"""What training minimises: the error of a roll-out, in normalised units."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

#: (params, x, lead_time, key) -> the state after the lead time; key None in forecasts
Apply = Callable[..., Array]


def roll_out(apply: Apply, params, x: Array, lead_time: Array, steps: int, key: Array | None = None) -> Array:
    """States `(B, steps, ...)` after 1 .. steps leads, each forecast from the one before."""

    def on(state, number):
        after = apply(params, state, lead_time, None if key is None else jax.random.fold_in(key, number))
        return after, after

    return jnp.moveaxis(jax.lax.scan(on, x, jnp.arange(steps))[1], 0, 1)


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
    """A function (params, batch, key) -> loss of the batch's roll-out, mean over its leads."""

    def loss(params, batch, key):
        forecast = roll_out(apply, params, batch.x, batch.lead_time, batch.y.shape[1], key)
        total = mean_square(forecast, batch.y)
        return total + spectral_weight * spectral(forecast, batch.y) if spectral_weight else total

    return loss
