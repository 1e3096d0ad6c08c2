"""How far one analysis is from posteriors that are known exactly (`jaxda.posteriors`): filters and measures.

`measured` draws new ensembles for each of R repetitions. What is measured is zero for members drawn independently
from the exact posterior, in expectation and at any ensemble size; states are in posterior standard deviations:

* `mean`: squared bias of the ensemble mean, over d. `covariance`: squared bias of the ensemble covariance in the
  Frobenius norm, relative to that of the posterior. `energy`: 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo
  2013, J. Stat. Plann. Inference 143) between one member X of any repetition and the posterior Y, at the
  last cycle. All three are U-statistics: averages of a kernel over pairs of *different* repetitions. Members of
  one repetition share an ensemble, so their pairs would not be pairs of independent draws.
* `crps` (one variable): the fair continuous ranked probability score (Ferro 2014, Q. J. R. Meteorol. Soc. 140)
  of each ensemble, averaged over the posterior, less what the posterior itself scores.

`mean_mse` and `covariance_mse` are the mean squares of one analysis's errors: biases and the sampling error of M
members together. Independent exact draws have 1/M and, for a Gaussian with covariance C,
(1 + (tr C / |C|_F)^2)/(M - 1).

Over several cycles, means and covariances are averaged over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.diagnostics import energy_kernel, pair_distance
from jaxda.filters import baselines, ensf, letkf, local_score
from jaxda.filters.localization import Geometry
from jaxda.observations import Observation
from jaxda.posteriors import Problem

Analysis = Callable[[Array, Array, Observation], Array]

#: members and exact samples of a repetition that enter the energy distance: it costs their square
ENERGY_MEMBERS = 32
#: exact samples of a repetition that enter its CRPS
CRPS_SAMPLES = 256


# Filters


def exact(problem: Problem, steps: int) -> Analysis:
    """Independent draws from the exact posterior in place of an analysis: the floor of every measure."""

    def analysis(key: Array, ensemble: Array, observation: Observation) -> Array:
        known = jnp.nan_to_num(jnp.asarray(problem.observations.values, ensemble.dtype))
        cycle = jnp.argmax(jnp.all(known == jnp.nan_to_num(observation.values), axis=-1))  # that of these data
        return problem.sample(key, len(ensemble))[cycle]

    return analysis


def global_letkf(problem: Problem, steps: int) -> Analysis:
    """The LETKF without localization or relaxation."""
    geometry = Geometry(shape=problem.operator.shape, spacing=1.0)
    return letkf.make_analysis(letkf.LETKFConfig(cutoff=math.inf, rtps=0.0), geometry, problem.operator)


def global_local_score(**options) -> Callable[[Problem, int], Analysis]:
    """The local score filter without localization."""

    def make(problem: Problem, steps: int) -> Analysis:
        flow = {} if steps is None else {"flow_steps": max(2, steps // 2)}  # up and down
        config = local_score.LocalScoreConfig(cutoff=math.inf, **flow, **options)
        return local_score.make_analysis(config, Geometry(problem.operator.shape, 1.0), problem.operator)

    return make


def bare_ensf(**options) -> Callable[[Problem, int], Analysis]:
    """An EnSF whose path is never ended early and whose spread is never capped."""

    def make(problem: Problem, steps: int) -> Analysis:
        config = ensf.EnSFConfig(steps=steps, tolerance=0.0, spread_cap=math.inf, **options)
        return ensf.make_analysis(config, problem.operator)

    return make


#: the closed-form score carried to the end, nothing put right afterwards
CLOSED_FORM = {"weights": "softmax", "stop": 0.0, "relaxation": 0.0}

#: name -> function (problem, steps) -> analysis; one line makes a filter part of the bench
FILTERS: dict[str, Callable[[Problem, int], Analysis]] = {
    "exact": exact,
    "free-run": lambda problem, steps: baselines.make_free_run(),
    "letkf": global_letkf,
    "local-score": global_local_score(),
    "local-score-given": global_local_score(inflation=1.0, full_rank=0.0),
    "local-score-kernel": global_local_score(inflation=1.0, full_rank=0.0, kernel=0.4),
    "ensf": bare_ensf(),  # as published: per-member, stop 0.5, relaxation 1, linear damping, Euler
    "ensf-exponential": bare_ensf(integrator="exponential"),
    "ensf-quadratic": bare_ensf(damping="quadratic"),
    "ensf-undamped": bare_ensf(damping="none"),
    "ensf-eps-beta": bare_ensf(eps_beta=0.05),
    "ensf-tan": bare_ensf(likelihood="tan"),
    "ensf-unrelaxed": bare_ensf(relaxation=0.0),
    "ensf-to-0": bare_ensf(stop=0.0, relaxation=0.0),
    "softmax": bare_ensf(**CLOSED_FORM),
    "softmax-exponential": bare_ensf(integrator="exponential", **CLOSED_FORM),
    "softmax-quadratic": bare_ensf(damping="quadratic", **CLOSED_FORM),
    "softmax-undamped": bare_ensf(damping="none", **CLOSED_FORM),
    "softmax-eps-beta": bare_ensf(eps_beta=0.05, **CLOSED_FORM),
    "softmax-minibatch": bare_ensf(minibatch=10, **CLOSED_FORM),
}
#: those that take no pseudo-time steps
WITHOUT_STEPS = {"exact", "free-run", "letkf", "local-score", "local-score-given"}


# Measures


class Measure(NamedTuple):
    """An average over repetitions and its Monte Carlo standard error."""

    value: float
    error: float


@partial(jax.jit, static_argnums=(0, 1, 3, 4))
def analyses(problem: Problem, analysis: Analysis, key: Array, members: int, repetitions: int) -> Array:
    """Members `(R, T, M, d)` of the analyses at every cycle, each repetition from an ensemble of its own."""

    def one(key):
        key_prior, key_cycles = jax.random.split(key)
        ensemble = problem.prior(key_prior, members)

        def cycle(ensemble, given):
            key, observation = given
            posterior = analysis(key, ensemble, observation)
            return problem.forecast(posterior), posterior

        keys = jax.random.split(key_cycles, len(problem.mean))
        observations = Observation(*(jnp.asarray(a, ensemble.dtype) for a in problem.observations))
        return jax.lax.scan(cycle, ensemble, (keys, observations))[1]

    return jax.vmap(one)(jax.random.split(key, repetitions))


@partial(jax.jit, static_argnums=(0, 2, 3))
def exact_draws(problem: Problem, key: Array, n: int, repetitions: int) -> Array:
    """Independent draws `(R, n, d)` from the posterior of the last cycle."""
    return jax.vmap(lambda key: problem.sample(key, n)[-1])(jax.random.split(key, repetitions))


def u_statistic(kernel: np.ndarray) -> Measure:
    """Average of a symmetric kernel h `(R, R)` over pairs of different repetitions, and its standard error.

    The variance is 4 (R - 2)/(R (R - 1)) zeta_1 + 2/(R (R - 1)) zeta_2, with zeta_1 that of E[h(X, Y) | X] and zeta_2
    that of h (Hoeffding 1948, Ann. Math. Statist. 19, eq. 5.13), zeta_1 from triples of different repetitions. Without
    error zeta_1 is zero and is estimated as zero at least, which makes the error too large by a third on average; the
    jackknife may find next to no error at all there.
    """
    r = len(kernel)
    off = kernel - np.diag(np.diag(kernel))
    of_each, squares = off.sum(1), (off**2).sum()
    value = of_each.sum() / (r * (r - 1))
    zeta_1 = max(((of_each**2).sum() - squares) / (r * (r - 1) * (r - 2)) - value**2, 0.0)
    zeta_2 = max(squares / (r * (r - 1)) - value**2, 0.0)
    return Measure(float(value), math.sqrt((4.0 * (r - 2) * zeta_1 + 2.0 * zeta_2) / (r * (r - 1))))


def average(values: np.ndarray) -> Measure:
    """Mean of independent values `(R,)` and its standard error."""
    return Measure(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))


@jax.jit
def fair_crps(x: Array, y: Array) -> Array:
    """Fair CRPS `(R,)` of ensembles x `(R, M)`, averaged over draws y `(R, K)`, less that of the law of y.

    Ferro 2014: E|X - Y| - E|X - X'|/2 - E|Y - Y'|/2 over pairs of different members.
    """
    within = lambda a: pair_distance(a.T)
    return jnp.abs(x[:, :, None] - y[:, None]).mean((1, 2)) - 0.5 * within(x) - 0.5 * within(y)


@jax.jit
def kernels(found: Array, draws: Array, mean: Array, covariance: Array) -> tuple[Array, Array, Array]:
    """Kernels `(R, R)` of the squared biases of mean and covariance, and of the energy distance.

    Args:
        found: analyses `(R, T, M, d)`.
        draws: from the last posterior `(R, K, d)`.
        mean: of the posteriors, `(T, d)`.
        covariance: of the posteriors, `(T, d, d)`.
    """
    repetitions, cycles, members, d = found.shape
    sd = jnp.sqrt(jnp.diagonal(covariance, axis1=1, axis2=2))
    average = found.mean(2)
    bias = ((average - mean) / sd).reshape(repetitions, -1)
    around = found - average[:, :, None]
    own = jnp.einsum("rtmi,rtmj->rtij", around, around) / (members - 1)
    size = jnp.sqrt((covariance**2).sum((1, 2), keepdims=True))
    excess = ((own - covariance) / size).reshape(repetitions, -1)
    x, y = ((a[:, :ENERGY_MEMBERS] - mean[-1]) / sd[-1] for a in (found[:, -1], draws))
    return bias @ bias.T / (cycles * d), excess @ excess.T / cycles, energy_kernel(x, y)


def compared(problem: Problem, found: Array, draws: Array) -> dict[str, Measure]:
    """Every measure of the module's docstring, by name, of analyses `(R, T, M, d)` and exact draws `(R, K, d)`.

    All are NaN where a member is not finite: what a filter leaves after it failed has no error worth a number.
    """
    found = jnp.where(jnp.isfinite(found).all(), found, jnp.nan)
    of_mean, of_covariance, of_energy = map(np.asarray, kernels(found, draws, problem.mean, problem.covariance))
    result = {
        "mean": u_statistic(of_mean),
        "covariance": u_statistic(of_covariance),
        "energy": u_statistic(of_energy),
        "mean_mse": average(np.diag(of_mean)),
        "covariance_mse": average(np.diag(of_covariance)),
    }
    if problem.mean.shape[1] == 1:
        sd = math.sqrt(problem.covariance[-1, 0, 0])
        result["crps"] = average(np.asarray(fair_crps(found[:, -1, :, 0], draws[..., 0])) / sd)
    return result


def measured(problem: Problem, analysis: Analysis, key: Array, members: int, repetitions: int) -> dict[str, Measure]:
    """Measures of an analysis, `compared` with exact draws.

    Raises:
        ValueError: fewer than 3 repetitions, which leave no error to estimate, or fewer than 2 members.
    """
    if repetitions < 3:
        raise ValueError(f"repetitions = {repetitions} leaves no Monte Carlo error; use at least 3")
    if members < 2:
        raise ValueError(f"members = {members} leaves no covariance; use at least 2")
    key_analyses, key_exact = jax.random.split(key)
    found = analyses(problem, analysis, key_analyses, members, repetitions)
    samples = CRPS_SAMPLES if problem.mean.shape[1] == 1 else ENERGY_MEMBERS
    return compared(problem, found, exact_draws(problem, key_exact, samples, repetitions))
