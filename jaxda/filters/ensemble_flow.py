"""From forecast to analysis members by two probability flows, in the coordinates of the ensemble.

A state of the ensemble's space is x = m + X w, X the deviations over sqrt(M - 1); member i has w = sqrt(M - 1) e_i,
less the mean. The prior of w is the mixture of M Gaussians N(a c_i, K) around the members' coordinates c_i, with
K = diag(k^2) in the eigenbasis of G and a^2 = (1 - k^2) M/(M - 1), so that its covariance is I, the ensemble's,
whatever the widths k. They are kappa along the directions that the data see and tend to 1 along the others,

    k^2 = 1 - (1 - kappa^2) g^2/(g^2 + UNSEEN^2),    g the eigenvalues of G :

M coordinates set all members apart, and kernels narrow in all of them would never trade places, whatever is observed
of the few. A datum of likelihood exp(b w - w G w/2) makes of it the mixture of

    N(mu_i, C),  C = (K^-1 + G)^-1,  mu_i = a c_i + C (b - G a c_i),
    log p_i = b a c_i - a c_i G a c_i/2 + (b - G a c_i) C (b - G a c_i)/2 + const.

With noise of variance s^2 added (the variance-exploding diffusion of Song et al. 2021, "Score-based generative
modeling through SDEs") both stay mixtures, of covariances K + s^2 and C + s^2, whose scores are closed forms,
and a member follows the probability flow du/ds = -s score(u, s) (their eq. 13) up from s = 0 in the prior and down
in the posterior. While the mean of the centres under the weights of u, cbar = sum_i pi_i(u) mu_i, stands still, the
flow is solved exactly in the eigenbasis of G: u - cbar goes as sqrt(C + s^2). A step holds cbar at the average of
its two ends. At the top both mixtures are Gaussian but for O(1/s), and there the standardised member is handed over.
For kappa = 1 there is one Gaussian and nothing to integrate: w -> A^-1 b + A^(-1/2) w with A = I + G.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxda.filters.letkf import ensemble_transform

#: eigenvalue of G, a gain of information over the prior, under which a direction counts as not seen
UNSEEN = 0.01
#: largest and smallest noise level, in standard deviations of the prior
HIGHEST, LOWEST = 30.0, 0.01


def transport(gram: Array, projected: Array, kernel: float = 1.0, steps: int = 20) -> Array:
    """New coordinates of the members, `(..., M, M)`, one a column: X @ transport is their place around m.

    Args:
        gram: G = Y^T W Y, `(..., M, M)`, of deviations over sqrt(M - 1).
        projected: b = Y^T W d, `(..., M)`.
        kernel: kappa in (0, 1].
        steps: of the flow, up and down each; not used for kernel = 1.
    """
    m = gram.shape[-1]
    if kernel == 1.0:
        return math.sqrt(m - 1) * ensemble_transform((m - 1) * gram, math.sqrt(m - 1) * projected)
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values, 0.0)
    own = math.sqrt(m - 1) * (jnp.eye(m, dtype=gram.dtype) - 1.0 / m)
    members = jnp.einsum("...mk,mi->...ik", vectors, own)  # (..., M, K): member i in the eigenbasis
    b = jnp.einsum("...mk,...m->...k", vectors, projected)[..., None, :]
    g = values[..., None, :]

    narrow = 1.0 - (1.0 - kernel**2) * g**2 / (g**2 + UNSEEN**2)
    centres = jnp.sqrt((1.0 - narrow) * m / (m - 1)) * members
    even = jnp.zeros_like(centres[..., 0])
    posterior = 1.0 / (1.0 / narrow + g)
    gradient = b - g * centres
    moved = centres + posterior * gradient
    log_weight = (b * centres - 0.5 * g * centres**2 + 0.5 * posterior * gradient**2).sum(-1)

    levels = jnp.geomspace(LOWEST, HIGHEST, steps).astype(gram.dtype)
    up = jnp.concatenate([jnp.zeros(1, gram.dtype), levels])
    high = _flow(members, centres, even, narrow, up)
    latent = _standardised(high, centres, even, narrow, up[-1])
    high = _standardised(latent, moved, log_weight, posterior, up[-1], inverse=True)
    low = _flow(high, moved, log_weight, posterior, up[::-1])
    return jnp.einsum("...mk,...ik->...mi", vectors, low)


def _centre(u: Array, centres: Array, log_weight: Array, variance: Array) -> Array:
    """Mean of the centres under their weights at each u `(..., P, K)`; variance `(..., 1, K)` of all kernels."""
    distance = (u[..., :, None, :] - centres[..., None, :, :]) ** 2 / variance[..., None, :]
    share = jax.nn.softmax(log_weight[..., None, :] - 0.5 * distance.sum(-1), axis=-1)
    return jnp.einsum("...pi,...ik->...pk", share, centres)


def _flow(u: Array, centres: Array, log_weight: Array, kernel: Array, levels: Array) -> Array:
    """Points u at noise `levels[0]` carried along the probability flow to `levels[-1]`."""

    def step(u, ends):
        before, after = kernel + ends[0] ** 2, kernel + ends[1] ** 2
        ratio = jnp.sqrt(after / before)
        first = _centre(u, centres, log_weight, before)
        guess = first + ratio * (u - first)
        middle = 0.5 * (first + _centre(guess, centres, log_weight, after))
        return middle + ratio * (u - middle), None

    return jax.lax.scan(step, u, jnp.stack([levels[:-1], levels[1:]], axis=1))[0]


def _standardised(u: Array, centres: Array, log_weight: Array, kernel: Array, level: Array, inverse=False) -> Array:
    """u less the mixture's mean over its standard deviation along each eigenvector at a noise level, or back."""
    share = jax.nn.softmax(log_weight, axis=-1)[..., None]
    mean = (share * centres).sum(-2, keepdims=True)
    deviation = jnp.sqrt((share * (centres - mean) ** 2).sum(-2, keepdims=True) + kernel + level**2)
    return mean + deviation * u if inverse else (u - mean) / deviation
