"""The local score filter: every score in closed form, the prior's error measured, nothing to tune.

**Prior.** Around each column the state is x = m + X w + e. X are the member deviations over sqrt(M - 1), times
sqrt(lambda); w has a kernel of width kappa at each member's own coordinates (a Gaussian for kappa = 1, particles
for kappa -> 0; `ensemble_flow`); e ~ N(0, diag q) is what no member knows. So the prior has full rank, its members'
part is smooth in space, and lambda, q (its size, and whether it is the same everywhere or larger where the mean is
rough) and how far the ensemble is believed (the power of the tapers) are measured at each cycle (`innovations`). What
only the whole domain can tell is measured apart and taken out of the innovations first (`drift`).

**Likelihood.** The true one. Each observation y = h(x) + N(0, R) of a value x is stood for by a datum z = x + N(0, R')
such that the analysis with all data has, at each observed value, the mean and variance that the true likelihood gives
with the rest of the analysis as prior: expectation propagation (Minka 2001, PhD thesis, MIT, Sec. 3.2), whose integrals
are over one variable at a time and need h alone, no derivative. It starts from the forecast's values, each as uncertain
as the ensemble says, or more where the observations would else be a `surprise`. Linear h need none of it.

**Score and transport.** With data z, variances R, tapers rho and W = rho/(R + q) the posterior of w at a column is

    p(w | z) = prior(w) exp(b w - w G w / 2),    G = Y^T W Y,   b = Y^T W (z - m),

e being integrated out, so its scores at all noise levels are closed forms in the eigenbasis of G. Each member is
carried up in noise by the probability flow of the prior's score and down again by that of the posterior's: it stays
coupled to its own forecast, no noise is drawn, and neighbouring columns, whose G and b differ little, move their
members alike. For kappa = 1 the flow has the solution

    w -> A^-1 b + A^(-1/2) w,    A = I + G                        (the transform of `letkf.ensemble_transform`).

Given w, e has mean g (z - m - X w) and variance (1 - g) q where observed, g = q/(q + R); between grid points g is
q H^T (H q H^T + R)^-1. The state's mean is m + X w + e, its deviations (1 - g H) X A^(-1/2) and those of e.

**The members of e.** White noise of variance (1 - g) q in each member would be forgotten by the flow, and is more
directions than M members can tell apart at the next analysis. What is unknown is above all whether the part that
was added belongs there at all. So member i gets c_i sqrt(1 - g) times the increment of e, with c_i of mean 0 and
variance 1, and the next analysis can take the increment back as a whole if the truth did not keep it. The increment
g r has mean square g q (1 - h) with h = v/(q + R) the leverage of the datum on the members' part, v their posterior
variance there; so this makes up (1 - g) g q (1 - h) of the variance (1 - g) q, and the rest, (1 - g) (q - g q + g^2 v),
q where nothing is observed, widens the other deviations.

In the linear Gaussian case with known S = X X^T + q I and no taper the mean is the Kalman analysis; the tests show it.

**Devices.** With a mesh one all-gather gives every device the whole ensemble, M S bytes with S those of a state. The
columns are spread, those of the analysis, whose result is a second all-gather of M S, and those whose scores are
measured: all-gathers of 21 x 19 numbers for each of `sample` columns (candidates for q, for lambda) and of 3 x 19 for
each of four times as many, whatever the size of the state. Where the normal equations are convolutions those are shared
and gathered too, (M + 3)/2 times M S bytes. All else, the drift too, every device does for itself:
it is little beside the columns, and a reduction over devices would change its last bits. For operators that are not
linear all that comes after the first gather comes `iterations` times more, in a loop.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxda.filters import innovations
from jaxda.filters.drift import Drift, make_drift
from jaxda.filters.ensemble_flow import transport
from jaxda.filters.inflation import deviations
from jaxda.filters.innovations import PriorError
from jaxda.filters.localization import Geometry, make_neighbours, vertical_taper
from jaxda.filters.normal_equations import batch_of, convolved, convolves, normal_equations, picked, reach_of
from jaxda.observations import Observation, Operator, cleaned
from jaxda.parallel.mesh import over_columns, with_all_members
from jaxda.settings import Count, FilterSettings, Fraction, Length, NonNegative, Positive, described, settings

#: grid of the integrals of expectation propagation: points, and standard deviations to each side
NODES, NODES_REACH = 101, 10.0
#: lambda is measured at so many times more columns than q: its effect is smaller, and one candidate for q costs less
MORE = 4


@settings
class LocalScoreConfig(FilterSettings):
    """Settings of the local score filter; the defaults are the one setting that is meant to serve everywhere."""

    kind: Literal["local-score"] = described("local-score", "filter")
    cutoff: Length | None = described(
        None, "zero radius of the taper, inf for none; the model's own where left out [km; grid points for Lorenz-96]"
    )
    vertical_taper: Fraction | None = described(
        None, "weight of the other boundary's observations; from the Rossby radius where left out [1]"
    )
    kernel: Annotated[float, Field(gt=0, le=1)] = described(
        1.0, "kernel width: 1 Gaussian prior, towards 0 particles [1]"
    )
    flow_steps: Count = described(20, "steps of the probability flow, up and down; unused for kernel = 1 [1]")
    inflation: Positive | None = described(None, "lambda, on the ensemble's variance; measured where left out [1]")
    full_rank: NonNegative | None = described(
        None, "standard deviation of the white part, sqrt(q); measured where left out [unit of the state]"
    )
    inflation_spread: Positive = described(0.4, "how far log lambda may be from 0 before any data [1]")
    full_rank_odds: Annotated[float, Field(gt=0, lt=1)] = described(
        1e-3, "probability of a white part before any data [1]"
    )
    sample: Count = described(256, "columns at which q is measured; lambda at four times as many [1]")
    regions: Count = described(1, "regions along each axis that measure it separately [1]")
    iterations: Count = described(3, "passes of expectation propagation where the operator is not linear [1]")
    batch: Count | None = described(None, "columns done at once on a device, at most; what suits it where left out [1]")


def data_of(operator: Operator, observation: Observation, x: Array, reach: Array) -> tuple[Array, Array]:
    """Data z for G x and their variances, `(*values_shape)` each, of a linear h; inf where nothing was observed.

    h's slope is a difference over x - reach to x + reach, so that nothing has to be known of h.
    """
    gx = operator.interpolate(x)
    ends = [operator.function.apply(gx + side * reach) for side in (-1.0, 1.0)]
    middle, slope = 0.5 * (ends[0] + ends[1]), 0.5 * (ends[1] - ends[0]) / reach
    precision = slope**2 * observation.precision.astype(x.dtype)
    felt = jnp.isfinite(precision) & (precision > jnp.finfo(x.dtype).tiny)
    z = jnp.where(felt, gx + (observation.values - middle) / jnp.where(felt, slope, 1.0), 0.0)
    return z, jnp.where(felt, 1.0 / jnp.where(felt, precision, 1.0), jnp.inf)


def surprise(operator: Operator, observation: Observation, mean: Array, variance: Array) -> Array:
    """Variance to add to that of the forecast's values `(*values_shape)` so that the observations are least surprising.

    One number, of the largest evidence sum_j log p(y_j) among 0 and powers of four times the mean variance, each
    likelihood integrated on a grid of its value alone, smoothed over a cell of the grid. It is a first guess of how far
    the truth may be, before anything is linear enough for `innovations`.
    """
    seen = observation.precision > 0
    typical = jnp.sum(jnp.where(seen, variance, 0.0)) / jnp.maximum(seen.sum(), 1)
    offsets = jnp.linspace(-5.0, 5.0, NODES, dtype=mean.dtype).reshape(-1, *[1] * mean.ndim)
    error = 1.0 / jnp.where(seen, observation.precision, 1.0).astype(mean.dtype)

    def evidence(more):
        h = operator.function.apply(mean + jnp.sqrt(variance + more) * offsets)
        smoothed = error + (0.25 * (jnp.roll(h, -1, 0) - jnp.roll(h, 1, 0))[1:-1]) ** 2
        log_likelihood = -0.5 * ((observation.values - h[1:-1]) ** 2 / smoothed + jnp.log(smoothed))
        log_weight = jnp.where(jnp.isfinite(log_likelihood), log_likelihood - 0.5 * offsets[1:-1] ** 2, -jnp.inf)
        found = jax.nn.logsumexp(log_weight, axis=0)
        return jnp.sum(jnp.where(seen & jnp.isfinite(found), found, 0.0))

    candidates = typical * jnp.concatenate([jnp.zeros(1, mean.dtype), 4.0 ** jnp.arange(-1, 11, dtype=mean.dtype)])
    return candidates[jnp.argmax(jax.lax.map(evidence, candidates))]


def matched(operator: Operator, observation: Observation, mean: Array, spread2: Array, z: Array, variance: Array):
    """Data z and their variances `(*values_shape)` after one pass of expectation propagation.

    The prior of each value is the present analysis, of this mean and variance `spread2` `(*values_shape)`, with the
    value's own datum (z, variance) taken out. Prior times likelihood is integrated on a grid over the analysis.
    """
    seen = observation.precision > 0
    others = jnp.maximum(1.0 / spread2 - 1.0 / variance, 1e-3 / spread2)
    centre = (mean / spread2 - jnp.where(jnp.isfinite(variance), z / variance, 0.0)) / others
    offsets = jnp.linspace(-NODES_REACH, NODES_REACH, NODES, dtype=mean.dtype).reshape(-1, *[1] * mean.ndim)
    nodes = mean + jnp.sqrt(spread2) * offsets
    h = operator.function.apply(nodes)
    error = 1.0 / jnp.where(seen, observation.precision, 1.0).astype(mean.dtype)
    cell = 0.25 * jnp.concatenate([h[1:2] - h[:1], h[2:] - h[:-2], h[-1:] - h[-2:-1]])
    likelihood = (observation.values - h) ** 2 / (error + cell**2) + jnp.log(error + cell**2)
    log_weight = -0.5 * (others * (nodes - centre) ** 2 + jnp.where(seen, likelihood, 0.0))
    weight = jax.nn.softmax(jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf), axis=0)
    first = (weight * nodes).sum(0)
    second = (weight * (nodes - first) ** 2).sum(0)
    # a likelihood that widens its prior is no datum: a weak one is put for it, near enough to surprise nobody
    gained, least = 1.0 / second - others, 1e-3 * others
    precision = jnp.maximum(gained, least)
    pull = (others + precision) * (first - centre) / precision
    usual = jnp.sqrt(1.0 / precision + 1.0 / others)
    datum = centre + jnp.where(gained > least, pull, jnp.clip(pull, -usual, usual))
    usable = seen & jnp.isfinite(datum) & jnp.isfinite(precision)
    return jnp.where(usable, datum, 0.0), jnp.where(usable, 1.0 / precision, jnp.inf)


def white_update(operator: Operator, q: Array, variance: Array, residual: Array) -> Array:
    """Mean q G^T (G q G^T + R)^-1 r of the white part given residuals r `(*values_shape)`; `(*shape)`.

    On the grid G = 1 and one division does it; between grid points conjugate gradients solve the sparse system.
    """
    seen = jnp.isfinite(variance)
    residual = jnp.where(seen, residual, 0.0)
    if operator.positions is None:
        return jnp.where(seen, q / jnp.where(seen, q + variance, 1.0), 0.0) * residual
    root = jnp.where(seen, jax.lax.rsqrt(jnp.where(seen, variance, 1.0)), 0.0)
    scaled = lambda v: v + root * operator.interpolate(q * operator.spread(root * v))
    solution = jax.scipy.sparse.linalg.cg(scaled, root * residual, tol=1e-6, maxiter=100)[0]
    return q * operator.spread(root * solution)


def white_left(operator: Operator, q: Array, variance: Array) -> Array:
    """1 - g = (posterior variance)/q of the white part at each grid point, `(*shape)`: by itself, g may round to 1.

    Exact on the grid; between grid points each observation is taken as if alone, so it is too small where many share
    a point, but above 0.
    """
    seen = jnp.isfinite(variance)
    if operator.positions is None:
        return jnp.where(seen, jnp.where(seen, variance, 1.0) / jnp.where(seen, q + variance, 1.0), 1.0)
    weight = jnp.where(seen, 1.0 / jnp.where(seen, variance + operator.interpolate(q), 1.0), 0.0)
    return 1.0 / (1.0 + q * operator.spread(weight))


class Gaussian(NamedTuple):
    """An analysis: mean, deviations before the white part, its increment, q, 1 - g, what members lack of the drift."""

    mean: Array
    members: Array
    white: Array
    q: Array
    left: Array
    drift: Array


def make_analysis(config: LocalScoreConfig, geometry: Geometry, operator: Operator, mesh=None):
    """The local score filter as a function (key, ensemble, observation) -> ensemble.

    Args:
        mesh: devices over which the columns are spread; None for one.

    Raises:
        ValueError: a cut-off under the grid spacing, more regions than points, no cut-off where the geometry has none.

    Examples:
        >>> from jaxda import observations
        >>> operator = observations.make_operator(observations.ObservationConfig(operator="identity"), (8,))
        >>> geometry = Geometry((8,), spacing=1.0, cutoff=4.0)  # a circle of 8 points
        >>> analysis = jax.jit(make_analysis(LocalScoreConfig(), geometry, operator))
        >>> ensemble = jax.random.normal(jax.random.key(0), (6, 8))
        >>> found = analysis(jax.random.key(1), ensemble, Observation(jnp.full(8, 2.0), jnp.full(8, 100.0)))
        >>> bool(jnp.abs(found.mean(0) - 2.0).max() < jnp.abs(ensemble.mean(0) - 2.0).max())
        True
    """
    cutoff = geometry.cutoff if config.cutoff is None else config.cutoff
    if cutoff is None:
        raise ValueError("cutoff is not set and the geometry has none of its own; give one")
    if cutoff < geometry.spacing:
        raise ValueError(f"cutoff = {cutoff:g} is under the grid spacing; use at least {geometry.spacing:g}")
    if config.regions > min(geometry.columns):
        raise ValueError(f"regions = {config.regions} for {min(geometry.columns)} points; use at most that many")
    levels, n_columns = geometry.levels, math.prod(geometry.columns)
    between_levels = jnp.asarray(vertical_taper(geometry, cutoff, config.vertical_taper))
    neighbours = make_neighbours(geometry, operator, cutoff)
    by_convolution = config.regions == 1 and convolves(geometry, operator, cutoff)
    few_columns, more_columns = (
        innovations.make_sample(geometry.columns, levels, operator.positions, size)
        for size in (config.sample, MORE * config.sample)
    )
    region_of = innovations.make_regions(geometry.columns, config.regions)
    linear = operator.function.linear
    drift_of = make_drift(geometry, operator, cutoff, config.full_rank_odds) if config.full_rank is None else None

    def equations(columns, y, datum, variance, sharpness):
        """G `(levels, C, M, M)` and b `(levels, C, M)` at columns `(C,)`, tapers to the power `sharpness` `(C,)`."""
        index, taper = neighbours(columns)
        precision = jnp.where(jnp.isfinite(variance), 1.0 / variance, 0.0)
        weight = taper.astype(y.dtype) ** sharpness[:, None] * precision[index]
        return mixed(*normal_equations(y[index], datum[index], weight), sharpness)

    def mixed(gram, projected, sharpness):
        """Observations of all levels as each level believes them; of the shapes given."""
        mix = between_levels.astype(gram.dtype)[..., None] ** sharpness
        return jnp.einsum("klc,lcmn->kcmn", mix, gram), jnp.einsum("klc,lcm->kcm", mix, projected)

    def measured(mean, y, datum, variance, axis) -> PriorError:
        """lambda and the tapers' power at each column, `(*columns)` each, and q `(*shape)`."""
        everywhere = lambda value: jnp.full(geometry.columns, value, y.dtype)
        seen = jnp.isfinite(variance)

        def scores(sample, q, sharpness):
            """Sums of scores by region at a sample of columns, of pairs q `(Q, P)` and powers `(Q,)`."""

            def at(numbers, columns, own, y, datum, variance, q, sharpness):
                columns, own = columns[numbers], own[:, numbers]
                own, there = jnp.where(own >= 0, own, 0), own >= 0

                def one(pair):
                    total = variance + pair[0]
                    gram, projected = equations(columns, y, datum, total, jnp.full(len(columns), pair[1]))
                    own_variance = jnp.where(there, total[own], jnp.inf)
                    return innovations.leave_one_out(gram, projected, y[own], datum[own], own_variance).sum(1)

                return jnp.moveaxis(jax.lax.map(one, (q, sharpness)), -1, 0)

            batch = batch_of(config.batch, levels, y.shape[-1] * reach_of(neighbours))
            run = over_columns(at, len(sample.columns), axis, batch)
            found = run(sample.columns, sample.own, y, datum, variance, q, sharpness)
            return region_of.total(jnp.moveaxis(found, 0, -1), sample.columns)

        white = jnp.full(geometry.shape, 0.0 if config.full_rank is None else config.full_rank**2, y.dtype)
        if config.full_rank is None:
            places = jnp.stack([jnp.ones_like(mean), innovations.roughness(mean, len(geometry.columns))])
            q = innovations.candidates(datum, variance, (y**2).sum(-1), len(places))
            at_data = q @ jax.vmap(operator.interpolate)(places).reshape(len(places), -1)
            found = scores(few_columns(seen), at_data, jnp.ones(len(q), y.dtype))
            found = innovations.full_rank(found, q, config.inflation_spread, config.full_rank_odds)
            white = sum(region_of.field(one) * place for one, place in zip(found, places, strict=True))
        if config.inflation is not None:
            return PriorError(everywhere(config.inflation), white, everywhere(1.0))
        at_data = operator.interpolate(white).reshape(1, -1)
        powers = jnp.asarray(innovations.SHARPNESSES, y.dtype)
        found = scores(more_columns(seen), jnp.broadcast_to(at_data, (len(powers), at_data.size)), powers)
        inflation, sharpness = innovations.reach(found, config.inflation_spread)
        return PriorError(region_of.field(inflation), white, region_of.field(sharpness))

    def at_columns(columns, x, y, datum, variance, sharpness):
        """Analysed members less the forecast's mean, `(C, levels, M)`, from x `(columns, levels, M)`."""
        return transported(columns, x, *equations(columns, y, datum, variance, sharpness[columns]))

    def of_convolved(columns, x, entries, sharpness):
        """What `at_columns` gives, from the entries of `convolved`."""
        return transported(columns, x, *mixed(*picked(entries, columns), sharpness[columns]))

    def transported(columns, x, gram, projected):
        weights = transport(gram, projected, config.kernel, config.flow_steps)
        return jnp.einsum("ckm,kcmn->ckn", x[columns], weights)

    def analysis(key: Array, ensemble: Array, observation: Observation, axis: str | None) -> Array:
        members, dtype = ensemble.shape[0], ensemble.dtype
        observation = cleaned(observation)
        key, key_drift = jax.random.split(key)
        mean, deviation = deviations(ensemble)
        to_state = lambda by_column: by_column.T.reshape(-1, *geometry.shape)
        # never so short that a difference of h drowns in rounding
        reach = jnp.maximum(jnp.std(operator.interpolate(ensemble), axis=0, ddof=1), 1e-3 * jnp.sqrt((mean**2).mean()))
        reach = jnp.where(reach > 0, reach, 1.0)
        if not linear:
            reach = jnp.sqrt(reach**2 + surprise(operator, observation, operator.interpolate(mean), reach**2))
        observed = lambda states: jax.vmap(operator.interpolate)(states).reshape(members, -1).T

        def solved(z, variance, last: bool = False) -> Gaussian:
            """The analysis with the data z; the drift is for the last."""
            datum = jnp.where(jnp.isfinite(variance), z - operator.interpolate(mean), 0.0)
            flat = variance.reshape(-1)
            x = deviation / math.sqrt(members - 1)
            drift = Drift(jnp.zeros_like(mean), jnp.zeros_like(x))
            if drift_of is not None and last:
                drift = drift_of(key_drift, mean, datum, variance, jax.vmap(operator.interpolate)(x))
                datum = jnp.where(jnp.isfinite(variance), datum - operator.interpolate(drift.mean), 0.0)
            error = measured(mean, observed(x), datum.reshape(-1), flat, axis)
            x = x * jnp.sqrt(error.inflation)
            q = error.full_rank
            total = flat + operator.interpolate(q).reshape(-1)
            by_column = x.reshape(members, levels, n_columns).T
            sharpness, near = error.sharpness.reshape(-1), (observed(x), datum.reshape(-1))
            if by_convolution:
                precision = jnp.where(jnp.isfinite(total), 1.0 / total, 0.0)
                entries = convolved(geometry, cutoff, *near, precision, sharpness[0], axis)
                batch = batch_of(config.batch, levels, members**2)
                run = over_columns(of_convolved, n_columns, axis, batch)
                moved = to_state(run(by_column, entries, sharpness))
            else:
                batch = batch_of(config.batch, levels, members * reach_of(neighbours))
                run = over_columns(at_columns, n_columns, axis, batch)
                moved = to_state(run(by_column, *near, total, sharpness))
            increment, moved = deviations(moved)
            white = white_update(operator, q, variance, datum - operator.interpolate(increment))
            left = white_left(operator, q, variance)
            return Gaussian(mean + drift.mean + increment + white, moved, white, q, left, drift.members)

        def match(data, _):
            found = solved(*data)
            variance = found.left**2 * jnp.var(found.members, axis=0, ddof=1) + found.left * found.q
            at_data = [operator.interpolate(part) for part in (found.mean, variance)]
            return matched(operator, observation, *at_data, *data), None

        if linear:
            data = data_of(operator, observation, mean, reach)
        else:
            nothing = jnp.full(operator.values_shape, jnp.inf, dtype)
            data = matched(
                operator, observation, operator.interpolate(mean), reach**2, jnp.zeros_like(nothing), nothing
            )
            data = jax.lax.scan(match, data, length=config.iterations)[0]
        found = solved(*data, last=True)
        centre, moved, q, left = found.mean, found.members, found.q, found.left
        known = jnp.var(moved, axis=0, ddof=1)
        moved = moved - jax.vmap(lambda one: white_update(operator, q, data[1], operator.interpolate(one)))(moved)
        rest = left * (q * left + (1.0 - left) ** 2 * known)
        own = jnp.var(moved, axis=0, ddof=1)
        moved = moved * jnp.sqrt(1.0 + rest / jnp.where(own > 0, own, 1.0))
        signs = jax.random.normal(key, (members,), dtype)
        signs = (signs - signs.mean()) / jnp.std(signs, ddof=1)
        return centre + moved + found.drift + signs.reshape(-1, *[1] * centre.ndim) * jnp.sqrt(left) * found.white

    return with_all_members(analysis, mesh)
