"""What an ensemble says about the truth as a sample of its distribution: all members count, not their mean alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def pair_distance(ensemble: Array) -> Array:
    """Mean of |x_i - x_j| over pairs of different members at each point, `(*shape)` of `(M, *shape)`, M >= 2.

    Between the sorted members k and k + 1 pass k (M - k) of the pairs, so that memory is that of the ensemble. On CPUs
    the sum over all pairs takes a twentieth of the time, but where members are spread over devices it gathers them,
    and here they change places with points, once.

    Examples:
        >>> float(pair_distance(jnp.array([0.0, 1.0, 3.0])))
        2.0
    """
    members = len(ensemble)
    below = jnp.arange(1, members, dtype=ensemble.dtype)
    total = jnp.tensordot(below * (members - below), jnp.diff(jnp.sort(ensemble, axis=0), axis=0), 1)
    return 2.0 * total / (members * (members - 1))


def crps(ensemble: Array, truth: Array) -> Array:
    """Fair continuous ranked probability score, averaged over all points, in the unit of the states.

    For members x_i and the truth t of one point,

        mean_i |x_i - t| - sum_ij |x_i - x_j| / (2 M (M - 1))

    whose expectation does not depend on M (Ferro 2014, Q. J. R. Meteorol. Soc. 140, 1917-1923):
    ensembles of different sizes can be compared, and a single score may be negative. Fair is for members drawn by
    themselves: where they are placed around a given mean exactly, the score is too small by a part of order 1/M (a
    quarter for two members whose spread is their mean's error).

    Args:
        ensemble: `(M, *shape)`, M >= 2.
        truth: `(*shape)`.

    Examples:
        >>> ensemble = jnp.array([[0.0], [1.0], [2.0]])
        >>> [round(float(crps(ensemble, jnp.array([truth]))), 3) for truth in (1.0, 5.0)]
        [0.0, 3.333]
    """
    return jnp.mean(jnp.abs(ensemble - truth).mean(0) - 0.5 * pair_distance(ensemble))


def ranks(key: Array, ensemble: Array, truth: Array) -> Array:
    """Number of members below the truth at each point, `(*shape)` of whole numbers from 0 to M.

    Members that equal the truth are put below or above it so that each place among them is as probable (Hamill 2001,
    Mon. Weather Rev. 129, 550-560): for a reliable ensemble every rank has probability 1/(M + 1).

    Args:
        key: for ties.
        ensemble: `(M, *shape)`.
        truth: `(*shape)`.

    Examples:
        >>> int(ranks(jax.random.key(0), jnp.array([0.0, 2.0, 4.0]), jnp.array(3.0)))
        2
    """
    below = jnp.sum(ensemble < truth, axis=0)
    equal = jnp.sum(ensemble == truth, axis=0)
    place = jax.random.uniform(key, truth.shape)
    return below + jnp.minimum((place * (equal + 1)).astype(below.dtype), equal)


def rank_counts(rank: Array, members: int) -> Array:
    """The rank histogram: points of each rank, `(M + 1,)` whole numbers, of `ranks` of any shape.

    Examples:
        >>> rank_counts(jnp.array([0, 2, 2]), members=2).tolist()
        [1, 0, 2]
    """
    return jnp.sum(rank.ravel() == jnp.arange(members + 1)[:, None], axis=1)


def outside(members: int, level: float) -> int:
    """How many members are left out at each end of the interval that is nearest to a level [1], at least none.

    Between the k + 1st and the last but k of M members that are drawn from the truth's distribution lies the truth
    with probability (M - 1 - 2k)/(M + 1), whatever that distribution is.
    """
    return max(0, min(round((members - 1 - level * (members + 1)) / 2), (members - 2) // 2))


def nominal_coverage(members: int, level: float = 0.9) -> float:
    """The probability with which the truth of a reliable ensemble is inside of the interval of `coverage`.

    It is as near to `level` as M members come: 19/21 for 0.9 and 20 members; 1/3 is the most that two can say.

    Examples:
        >>> [round(nominal_coverage(members), 3) for members in (2, 20, 100)]
        [0.333, 0.905, 0.901]
    """
    return (members - 1 - 2 * outside(members, level)) / (members + 1)


def coverage(rank_counts: Array, level: float = 0.9) -> Array:
    """Part of the points whose truth is inside of the ensemble's central interval; `nominal_coverage` is right.

    Args:
        rank_counts: `(..., M + 1)`, M >= 2, of one cycle or the sum of many.
        level: of the interval that is asked for [1].

    Examples:
        >>> round(float(coverage(jnp.array([1, 8, 1]))), 3)  # of two members, for which it should be 1/3
        0.8
    """
    left = 1 + outside(rank_counts.shape[-1] - 1, level)
    return rank_counts[..., left:-left].sum(-1) / rank_counts.sum(-1)


def distances(x: Array, y: Array) -> Array:
    """Mean distance `(R, S)` between a member of x[r] and one of y[s], from x `(R, M, d)` and y `(S, K, d)`.

    Examples:
        >>> distances(jnp.zeros((1, 1, 2)), jnp.array([[[3.0, 4.0]]])).tolist()
        [[5.0]]
    """
    flat = y.reshape(-1, y.shape[-1])

    def one(member):  # one at a time: (M, S K) distances, never all of them
        square = ((member[:, None] - flat) ** 2).sum(-1)
        return jnp.sqrt(square).reshape(len(member), *y.shape[:2]).mean((0, 2))

    return jax.lax.map(one, x)


def energy_kernel(x: Array, y: Array) -> Array:
    """Kernel `(R, R)` whose average over r != s is the energy distance of x and y, each `(R, K, d)`.

    Szekely & Rizzo 2013, J. Stat. Plann. Inference 143: |x_r - y_s| + |x_s - y_r| - |x_r - x_s| - |y_r - y_s|.

    Examples:
        >>> x, y = jnp.array([[[0.0]], [[1.0]]]), jnp.full((2, 1, 1), 5.0)
        >>> energy_kernel(x, y).tolist()
        [[10.0, 8.0], [8.0, 8.0]]
    """
    between = distances(x, y)
    return between + between.T - distances(x, x) - distances(y, y)


def energy_distance(x: Array, y: Array) -> Array:
    """Energy distance of the laws of two samples `(M, *shape)` and `(K, *shape)`, in the unit of the states.

    2 E|X - Y| - E|X - X'| - E|Y - Y'| with the Euclidean norm of whole states and pairs of different members: zero in
    expectation where both samples are of one law, and it may be negative (Szekely & Rizzo 2013, J. Stat. Plann.
    Inference 143, eq. 1.1). For numbers it is twice the squared distance of the distribution functions.

    Examples:
        >>> float(energy_distance(jnp.array([0.0, 1.0]), jnp.array([5.0, 5.0])))  # 2 * 4.5 - 1 - 0
        8.0
    """
    x, y = (a.reshape(len(a), 1, -1) for a in (x, y))
    within = lambda a: distances(a, a).sum() / (len(a) * (len(a) - 1))
    return 2.0 * distances(x, y).mean() - within(x) - within(y)
