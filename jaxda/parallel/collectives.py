"""Statistics of an ensemble whose members are spread over ranks, each written once for every way of summing over them.

    ranks = jaxda.parallel.ranks.choose()            # or over_axis("member") inside of shard_map
    estimate = collectives.mean(ranks, members)      # members of this rank (m, *shape) -> (*shape), on every rank

m may differ between ranks of MPI and may be 0 on some. Results have the members' type, float32 or float64.

No squares are summed around anything but the mean of all: with a mean of 1e4 and a spread of 1 their differences
would be rounding in float32. Variances and covariances are the two-pass algorithm spread over ranks, first the mean of
all members, then the deviations from it; each rank takes its part of the mean of values shifted by its first member
(both as Chan, Golub & LeVeque 1983, Am. Stat. 37, 242-247, advise). Their merging of the ranks' means and squares would
spare the second pass, but those means would be rounded to the type, an error of 6e-4 in that example in place of 1e-6.

Members must be finite: what MPI's minimum makes of a NaN depends on the order of the ranks.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.parallel.ranks import Ranks
from jaxda.shown import in_brief


class Scores(NamedTuple):
    """The estimate (ensemble mean) `(*shape)`; its RMSE and the spread over all points, in the unit of the state."""

    estimate: Array
    rmse: Array
    spread: Array

    __repr__ = in_brief


def first_member(ranks: Ranks, count: int) -> int | Array:
    """The number, in the whole ensemble, of the first of this rank's `count` members: what to fold into keys."""
    xp, numbers = ranks.xp, np.arange(ranks.size())
    counts = ranks.total(xp.where(numbers == ranks.rank(), count, 0))
    return xp.where(numbers < ranks.rank(), counts, 0).sum()


def mean(ranks: Ranks, members: Array) -> Array:
    """Ensemble mean `(*shape)`."""
    return _deviations(ranks, members)[0]


def mean_and_variance(ranks: Ranks, members: Array) -> tuple[Array, Array]:
    """Ensemble mean and variance, both `(*shape)`, with N - 1 degrees of freedom; NaN for a single member."""
    centre, deviations = _deviations(ranks, members)
    return centre, _over_freedom(ranks.total((deviations**2).sum(0)), ranks.total(len(members)))


def variance(ranks: Ranks, members: Array) -> Array:
    """Ensemble variance `(*shape)` with N - 1 degrees of freedom; NaN for a single member."""
    return mean_and_variance(ranks, members)[1]


def covariance(ranks: Ranks, members: Array, observed: Array) -> Array:
    """Covariance of the state with observations `(*shape, *observed_shape)`, N - 1 degrees of freedom.

    Args:
        observed: the operator's values of the same members, `(m, *observed_shape)`.

    Raises:
        ValueError: another number of members.
    """
    if len(observed) != len(members):
        raise ValueError(f"observed has {len(observed)} members, the ensemble {len(members)}; give the same ones")
    # the precision: GPUs may multiply float32 matrices with 10 bits otherwise
    product = np.tensordot if ranks.xp is np else partial(jnp.tensordot, precision="highest")
    x, h = (_deviations(ranks, each)[1] for each in (members, observed))
    return _over_freedom(ranks.total(product(x, h, axes=([0], [0]))), ranks.total(len(members)))


def minimum(ranks: Ranks, members: Array) -> Array:
    """Least value of each point, `(*shape)`."""
    return ranks.smallest(ranks.xp.min(_checked(ranks, members), axis=0, initial=np.inf))


def maximum(ranks: Ranks, members: Array) -> Array:
    """Largest value of each point, `(*shape)`."""
    return ranks.largest(ranks.xp.max(_checked(ranks, members), axis=0, initial=-np.inf))


def histogram(ranks: Ranks, members: Array, edges: Any) -> Array:
    """How many values of all members and points lie between the edges, `(len(edges) - 1,)` whole numbers.

    Bins are closed below, the last one above too, as NumPy's; values outside and NaN are not counted.

    Args:
        edges: concrete increasing numbers.

    Raises:
        ValueError: edges that do not increase, or more values than the 32-bit counts of jitted code can hold.
    """
    values, edges = members.size * ranks.size(), np.asarray(edges, members.dtype)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges = {edges.tolist()} do not increase in {edges.dtype}; give two or more that do")
    if ranks.xp is jnp and not jax.config.jax_enable_x64 and values >= 2**31:
        raise ValueError(f"histogram of {values} values: counts have 32 bits; give every second point, or enable x64")
    x = _checked(ranks, members).ravel()
    last = len(edges) - 1
    bins = ranks.xp.searchsorted(ranks.xp.asarray(edges), x, side="right")  # a NaN comes after the last edge
    bins = ranks.xp.where(x == edges[-1], last, bins)
    longer = {"minlength" if ranks.xp is np else "length": last + 2}
    return ranks.total(ranks.xp.bincount(bins, **longer)[1:-1])


def scores(ranks: Ranks, members: Array, truth: Array) -> Scores:
    """Estimate, its RMSE against the truth `(*shape)`, and spread, as `rmse` and `mean_spread` of jaxda.diagnostics."""
    xp, (estimate, squared) = ranks.xp, mean_and_variance(ranks, members)
    error = estimate - xp.asarray(truth)
    return Scores(estimate, xp.sqrt(xp.mean(error**2)), xp.sqrt(xp.mean(squared)))


def crps(ranks: Ranks, members: Array, truth: Array) -> Array:
    """Fair continuous ranked probability score, as `jaxda.diagnostics.crps`; NaN for a single member.

    Its pairs |x_i - x_j| need every member everywhere: each is shown to all ranks in its turn. So N sums of one state,
    O(m N) work a rank and memory for one more state: for verification, not for every cycle of a large run.
    """
    xp, x, m = ranks.xp, _checked(ranks, members), len(members)
    first, count = first_member(ranks, m), ranks.total(m)

    def add(j, pairs):
        own = j - first
        shown = x[xp.clip(own, 0, m - 1)] if m else xp.zeros(x.shape[1:], x.dtype)
        shown = ranks.total(xp.where((own >= 0) & (own < m), shown, 0.0))
        return pairs + xp.abs(x - shown).mean(tuple(range(1, x.ndim))).sum()

    pairs = ranks.total(_repeated(xp, count, add, x[:0].sum())) / (2.0 * count)  # x[:0]: varies over an axis, as x does
    distance = xp.abs(x - xp.asarray(truth)).mean(tuple(range(1, x.ndim))).sum()
    return ranks.total(distance) / count - _over_freedom(pairs, count)


def _deviations(ranks: Ranks, members: Array) -> tuple[Array, Array]:
    """The mean of all members `(*shape)`, and the deviations of this rank's from it `(m, *shape)`."""
    x, m = _checked(ranks, members), max(len(members), 1)
    shift = x[:1].sum(0)  # the first member; 0 where there is none
    own = shift + (x - shift).sum(0) / m
    centre = ranks.total(len(members) * own) / ranks.total(len(members))
    return centre, x - centre


def _checked(ranks: Ranks, members: Array) -> Array:
    """The members as an array of the kind that the ranks work with.

    Raises:
        ValueError: not float32 or float64, no member axis.
        TypeError: traced members on the host.
    """
    if members.dtype not in (np.float32, np.float64):
        raise ValueError(f"members are {members.dtype}; sums over ranks need float32 or float64")
    if members.ndim == 0:
        raise ValueError("members has no axis; give (m, *shape)")
    if ranks.xp is np and isinstance(members, jax.core.Tracer):
        raise TypeError("statistics over mpi4py run on the host, not inside of jit; use mpi4jax, or leave jit first")
    return ranks.xp.asarray(members)


def _over_freedom(total: Array, count: int | Array) -> Array:
    """total/(count - 1): 0/0, so NaN, for a single member."""
    with np.errstate(invalid="ignore"):
        return total / (count - 1)


def _repeated(xp, count, body, start):
    """body(j, carry) for j = 0..count-1."""
    if xp is jnp:
        return jax.lax.fori_loop(0, count, body, start)
    for j in range(count):
        start = body(j, start)
    return start
