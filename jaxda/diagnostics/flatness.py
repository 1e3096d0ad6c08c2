"""Is a rank histogram flat? The chi-square test, in parts, and for points that are not independent."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaincc


class Flatness(NamedTuple):
    """Chi-square of a rank histogram, and its parts of one degree of freedom; each with its p-value.

    `slope` and `convexity` are signed roots of their parts, standard normal for a reliable ensemble. A slope above
    zero: the truth is above the members too often. A convexity above zero (a U): outside of them too often, the
    spread is too small; below zero (a dome): too large.
    """

    chi_square: Array
    p_value: Array
    slope: Array
    slope_p: Array
    convexity: Array
    convexity_p: Array


def flatness(counts: Array, design: float | Array = 1.0) -> Flatness:
    """The test of a rank histogram's flatness with its decomposition (Jolliffe & Primo 2008, Mon. Weather Rev. 136).

    With n_i points of K = M + 1 ranks and e = sum n_i / K, chi^2 = sum (n_i - e)^2 / e has K - 1 degrees of freedom.
    For orthonormal vectors u that are orthogonal to (1, ..., 1), (sum_i u_i (n_i - e))^2 / e are independent parts of
    it with one each: u of degree one in i is the slope, of degree two the convexity.

    Args:
        counts: points of each rank `(K,)`, K >= 3.
        design: `design_effect`, by which every part is divided (Rao & Scott 1981); 1 for independent points.

    Examples:
        >>> found = flatness(jnp.array([30, 20, 20, 30]))  # outside of the members too often
        >>> round(float(found.chi_square), 3), round(float(found.convexity), 3), abs(round(float(found.slope), 3))
        (4.0, 2.0, 0.0)
    """
    number = len(counts)
    counts = jnp.asarray(counts, float)
    expected = counts.sum() / number
    scaled = (counts - expected) / jnp.sqrt(expected * design)
    place = np.linspace(-1.0, 1.0, number)
    contrast = np.linalg.qr(np.stack([np.ones(number), place, place**2], 1))[0].T[1:]
    contrast *= np.sign(contrast[:, -1:])  # both rise towards the last rank
    slope, convexity = jnp.asarray(contrast, scaled.dtype) @ scaled
    chi_square = jnp.sum(scaled**2)
    p_value = lambda square, freedoms: gammaincc(0.5 * freedoms, 0.5 * square)
    parts = ((part, p_value(part**2, 1.0)) for part in (slope, convexity))
    return Flatness(chi_square, p_value(chi_square, number - 1.0), *(value for part in parts for value in part))


def design_effect(counts: Array) -> Array:
    """How many times larger the variance of rank counts is than for independent points, at least 1.

    Neighbouring points have like errors: 8192 points of one state are not as many pieces of evidence. From the
    counts of T states, which are taken for independent, their variance between states is known, and

        design = sum_i (1 - p) d_i / (K - 1),      d_i = var_t(n_ti) / (n p (1 - p)),    p = 1/K,

    is the mean of the generalised design effects of Rao & Scott 1981 (J. Am. Stat. Assoc. 76, 221-230): chi^2
    divided by it has its usual mean where the histogram is flat.

    Args:
        counts: `(T, K)`, T >= 2 states of as many points each.

    Examples:
        >>> float(design_effect(jnp.array([[10, 0], [0, 10], [5, 5]])))  # ten points of a state are like one
        10.0
    """
    counts = jnp.asarray(counts, float)
    number = counts.shape[1]
    p, points = 1.0 / number, counts.sum() / len(counts)
    ratio = counts.var(0, ddof=1) / (points * p * (1.0 - p))
    return jnp.maximum(jnp.sum((1.0 - p) * ratio) / (number - 1.0), 1.0)
