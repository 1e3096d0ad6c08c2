"""Bad ensembles and bad observations: what every filter makes of them is finite and, where it can be said, right."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import observations
from jaxda.filters import baselines, ensf, letkf, local_score
from jaxda.filters.baselines import Climate
from jaxda.filters.localization import Geometry
from jaxda.observations import FUNCTIONS, Observation, Operator, PointFunction

KEY = jax.random.key(0)
D, M = 12, 8
CLIMATE = Climate(np.linspace(-1.0, 1.0, D).astype(np.float32), np.linspace(4.0, 9.0, D).astype(np.float32))
TRUTH = np.linspace(0.5, 3.0, D).astype(np.float32)
FINITE = PointFunction(lambda x: x, lambda y, sigma: y)
#: NaN below zero, with an infinite slope at zero; so is its inverse
PARTIAL = PointFunction(jnp.sqrt, lambda y, sigma: jnp.where(y >= 0, y * y, jnp.nan))
FAST = {"integrator": "exponential", "steps": 40, "tolerance": 0.0}
#: kind -> operator -> analysis; a new filter goes through all of this file with a line here
MAKE = {
    "letkf": lambda h: letkf.make_analysis(letkf.LETKFConfig(cutoff=4.0), Geometry((D,), 1.0), h),
    "letkf-global": lambda h: letkf.make_analysis(
        letkf.LETKFConfig(cutoff=math.inf, rotation=True, inflation=1.1), Geometry((D,), 1.0), h
    ),
    "local-score": lambda h: local_score.make_analysis(
        local_score.LocalScoreConfig(cutoff=4.0), Geometry((D,), 1.0), h
    ),
    "ensf": lambda h: ensf.make_analysis(ensf.EnSFConfig(**FAST), h, 1.0),
    "ensf-softmax": lambda h: ensf.make_analysis(ensf.EnSFConfig(weights="softmax", **FAST | {"stop": 0.0}), h, 1.0),
    "free-run": lambda h: baselines.make_free_run(),
    "observations-only": lambda h: baselines.make_observations_only(h, CLIMATE),
    "climatology": lambda h: baselines.make_climatology(h, CLIMATE),
}
#: those that know no ensemble: what they make of one is not asked
CLIMATIC = {"observations-only", "climatology"}
KINDS = pytest.mark.parametrize("kind", MAKE)
ENSEMBLE_KINDS = pytest.mark.parametrize("kind", [kind for kind in MAKE if kind not in CLIMATIC])


@cache
def analysis_of(kind, function=FINITE):
    """Screening and the analysis, compiled: what a cycle does with an observation."""
    operator = Operator((D,), function)
    analysis = MAKE[kind](operator)

    def run(ensemble, observation, limit):
        return analysis(KEY, ensemble, observations.screened(operator, ensemble, observation, limit))

    return partial(jax.jit(run), limit=20.0)


def forecast(members=M, spread=0.3):
    noise = np.random.default_rng(1).normal(size=(members, D))
    return (TRUTH + spread * noise).astype(np.float32)


def observed(variance=0.04, values=TRUTH):
    error = np.random.default_rng(2).normal(size=D) * 0.1
    return Observation(jnp.asarray(values + error, jnp.float32), jnp.full(D, 1.0 / variance, jnp.float32))


def finite(kind, result, members=M):
    result = np.asarray(result)
    assert result.shape == (members, D)
    assert result.dtype == np.float32
    assert np.isfinite(result).all(), kind
    return result


@ENSEMBLE_KINDS
@pytest.mark.parametrize("value", [0.7, 1000.1])  # rounding the mean makes some spread of these
def test_members_that_agree_are_sure_and_stay(kind, value):
    ensemble = np.full((M, D), value, np.float32)
    result = finite(kind, analysis_of(kind)(ensemble, observed()))
    if kind == "local-score":  # it sees that data and members disagree, and has directions of its own to move in
        assert np.abs(result.mean(0) - TRUTH).mean() < 0.5 * np.abs(ensemble[0] - TRUTH).mean()
    else:
        np.testing.assert_allclose(result, ensemble, rtol=1e-5)


@KINDS
def test_members_that_agree_at_some_points_leave_the_others_finite(kind):
    ensemble = forecast()
    ensemble[:, 3:6] = TRUTH[3:6]
    result = finite(kind, analysis_of(kind)(ensemble, observed()))
    if kind not in CLIMATIC:
        tolerance = 0.01 if kind == "local-score" else 1e-5  # its white part is small here, not zero
        np.testing.assert_allclose(result[:, 3:6], ensemble[:, 3:6], rtol=tolerance)


@KINDS
def test_two_members_serve(kind):
    result = finite(kind, analysis_of(kind)(forecast(2), observed()), 2)
    assert (result[0] != result[1]).any()


@KINDS
def test_data_much_better_than_the_forecast(kind):
    result = finite(kind, analysis_of(kind)(forecast(), observed(1e-12, np.float32(TRUTH))))
    if kind in CLIMATIC:  # they can follow the data at each point
        np.testing.assert_allclose(result.mean(0), observed().values, atol=1e-4)


@ENSEMBLE_KINDS
def test_data_that_say_nothing_leave_the_mean(kind):
    """The spread too, but for the inflation and rotation asked for; EnSF makes new members of the same statistics."""
    ensemble = forecast()
    result = finite(kind, analysis_of(kind)(ensemble, observed(1e12)))
    if kind.startswith("letkf") or kind == "free-run":
        np.testing.assert_allclose(result.mean(0), ensemble.mean(0), atol=1e-4)
    else:
        assert np.abs(result.mean(0) - ensemble.mean(0)).max() < 2.0 * ensemble.std(0, ddof=1).max()


@KINDS
def test_one_observation_twenty_standard_deviations_off(kind):
    values = TRUTH.copy()
    values[5] += 20.0 * np.sqrt(0.04 + 0.09)
    finite(kind, analysis_of(kind)(forecast(), observed(values=values)))


@KINDS
@pytest.mark.parametrize("wrong", [1e4, np.inf, -np.inf])
def test_one_absurd_observation_is_as_if_it_were_missing(kind, wrong):
    run, ensemble = analysis_of(kind), forecast()
    good, bad, missing = (observed() for _ in range(3))
    bad = bad._replace(values=good.values.at[5].set(wrong))
    missing = missing._replace(values=good.values.at[5].set(jnp.nan))
    result = finite(kind, run(ensemble, bad))
    np.testing.assert_array_equal(result, run(ensemble, missing))


@KINDS
@pytest.mark.parametrize("limit", [20.0, np.inf])
def test_an_operator_that_is_nan_for_some_members(kind, limit):
    ensemble = forecast()
    ensemble[2, 4], ensemble[:, 8] = -0.5, -1.0
    seen = Observation(jnp.sqrt(jnp.asarray(TRUTH)), jnp.full(D, 25.0, jnp.float32))
    result = finite(kind, analysis_of(kind, PARTIAL)(ensemble, seen, limit=limit))
    missing = seen._replace(values=seen.values.at[jnp.array([4, 8])].set(jnp.nan))
    np.testing.assert_array_equal(result, analysis_of(kind, PARTIAL)(ensemble, missing, limit=limit))


@KINDS
def test_an_operator_that_is_nan_without_screening(kind):
    """As when an analysis is called by itself."""
    ensemble = forecast()
    ensemble[2, 4], ensemble[:, 8] = -0.5, -1.0
    seen = Observation(jnp.sqrt(jnp.asarray(TRUTH)), jnp.full(D, 25.0, jnp.float32))
    finite(kind, jax.jit(MAKE[kind](Operator((D,), PARTIAL)))(KEY, ensemble, seen))


@KINDS
def test_nothing_observed(kind):
    nothing = Observation(jnp.full(D, jnp.nan), jnp.zeros(D))
    finite(kind, analysis_of(kind)(forecast(), nothing))


def test_the_published_likelihood_of_arctan_data_bears_members_that_agree():
    operator = Operator((D,), FUNCTIONS["arctan"](1.0))
    analysis = jax.jit(ensf.make_analysis(ensf.EnSFConfig(likelihood="tan", **FAST), operator, 1.0))
    ensemble = forecast()
    ensemble[:, 3:6] = TRUTH[3:6]
    result = finite("ensf", analysis(KEY, ensemble, observed(values=np.arctan(TRUTH))))
    np.testing.assert_allclose(result[:, 3:6], ensemble[:, 3:6], rtol=1e-6)
