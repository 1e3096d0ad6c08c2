"""Members that are not finite: found in every cycle, and drawn anew from those that are.

A step that was too long, an eigen-decomposition that failed or a surrogate that left its climate makes NaN or infinity
of a member, and the next analysis makes it of all. So members are looked at after each analysis and each forecast. Of
M members let m be finite, with mean a and deviations d_i from it. A lost member j becomes

    x_j = a + sum_i c_ij d_i,    c_ij ~ N(0, s^2),    s^2 = M / ((M - 1)(m - 1)),

which lies where the survivors do, in their span. Given them E[x_j] = a, so that the mean of all members is a in
expectation, and with P = sum_i d_i d_i^T / (m - 1), their covariance, Cov[x_j] = s^2 (m - 1) P = M/(M - 1) P. The k =
M - m drawn members shift the mean of all by e = sum_j (x_j - a) / M, E[e e^T] = k/(M (M - 1)) P, so that the sum of
squares around it is in expectation

    (m - 1) P + k M/(M - 1) P - M k/(M (M - 1)) P = (m - 1 + k) P = (M - 1) P:

the covariance of all members is that of the survivors in expectation, neither more nor less spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxda.parallel.mesh import with_all_members
from jaxda.settings import Count, Fraction, Length, described, settings

#: (key, ensemble) -> the ensemble, how many of its members were drawn anew, how many are not finite and were not
Mend = Callable[[Array, Array], tuple[Array, Array, Array]]


@settings
class FaultsConfig:
    """What is done about members that are not finite, and about a filter that loses the truth."""

    replaced_limit: Fraction = described(
        0.5,
        "part of the members that may be drawn anew at a time, where they are not finite; beyond it a filter ends [1]",
    )
    chi_square_limit: Length = described(
        5.0,
        "suspect is a cycle with squared innovations over so many times what spread and errors promise; inf: none [1]",
    )
    rmse_limit: Length = described(
        1.0, "in twin experiments, a forecast's error over so many standard deviations of the climate is; inf: none [1]"
    )
    patience: Count = described(5, "suspect cycles in a row from which on a filter is flagged as diverging [1]")
    recovery: Literal["none", "inflate", "recentre"] = described(
        "none", "what is done then: nothing, its spread is inflated, or it is centred on observations and climate"
    )


def redrawn(key: Array, ensemble: Array, sound: Array) -> Array:
    """The ensemble `(M, *shape)` with the members that are not sound `(M,)` drawn as the module's docstring says.

    At least two members have to be sound.
    """
    members, count = len(ensemble), sound.sum()
    kept = sound.reshape(-1, *[1] * (ensemble.ndim - 1))
    mean = jnp.where(kept, ensemble, 0.0).sum(0) / count
    deviation = jnp.where(kept, ensemble - mean, 0.0)
    size = jnp.sqrt(members / ((members - 1.0) * (count - 1.0))).astype(ensemble.dtype)
    # those of members that are not sound meet deviations of zero
    weights = size * jax.random.normal(key, (members, members), ensemble.dtype)
    drawn = mean + jnp.tensordot(weights, deviation, 1, precision="highest")
    return jnp.where(kept, ensemble, drawn)


def make_mend(config: FaultsConfig, members: int, mesh: Mesh | None = None) -> Mend:
    """What finds members that are not finite and draws them anew, where they are no more than the limit.

    A cycle in which there are none pays for one look at the ensemble. Else each device gathers the ensemble and draws
    for itself, so that the numbers do not depend on how many there are.

    Args:
        members: M; two at least have to be left.
        mesh: whose axis `member` they are spread over.
    """
    most = min(math.floor(config.replaced_limit * members + 1e-9), members - 2)
    draw = with_all_members(lambda key, ensemble, sound, axis: redrawn(key, ensemble, sound), mesh)

    def mend(key, ensemble):
        sound = jnp.isfinite(ensemble).all(axis=tuple(range(1, ensemble.ndim)))
        lost = members - sound.sum()
        mendable = (lost > 0) & (lost <= most)
        after = jax.lax.cond(mendable, draw, lambda key, ensemble, sound: ensemble, key, ensemble, sound)
        return after, jnp.where(mendable, lost, 0), jnp.where(mendable, 0, lost)

    return mend
