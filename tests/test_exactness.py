"""The bench of exact posteriors: it is right itself, it sees what is wrong, and what the filters do on it."""

import csv
import math
from functools import cache, partial

import calling
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from jaxda import diagnostics, exactness, posteriors
from jaxda.exactness import FILTERS
from jaxda.observations import FUNCTIONS, Observation
from jaxda.posteriors import PROBLEMS, Mixture

KEY = jax.random.key(0)
MEMBERS, REPETITIONS = 20, 96
ONE_VARIABLE = ["gaussian-1", "mixture-1", "arctan", "cubic", "square"]
few = hypothesis_settings(max_examples=20)
#: each problem is made once, so that what is compiled for it serves all tests; all of them are in double precision
problem_of = cache(lambda name: PROBLEMS[name]())
filter_of = cache(lambda name, problem, steps=100: FILTERS[name](problem_of(problem), steps))


def analyses(name, problem, members=MEMBERS, repetitions=REPETITIONS, steps=100):
    """Members `(R, T, M, d)`; all filters start from the same ensembles."""
    return exactness.analyses(problem_of(problem), filter_of(name, problem, steps), KEY, members, repetitions)


def compared(problem, found):
    draws = exactness.exact_draws(problem_of(problem), jax.random.key(1), exactness.CRPS_SAMPLES, len(found))
    return exactness.compared(problem_of(problem), found, draws)


def random_covariance(rng, d):
    root = rng.normal(size=(d, d))
    return root @ root.T + 0.1 * np.eye(d)


# The posteriors


@few
@given(d=st.integers(1, 6), seed=st.integers(0, 999))
def test_an_update_of_one_gaussian_is_its_information_form(assert_near, d, seed):
    rng = np.random.default_rng(seed)
    m, P, y = rng.normal(size=d), random_covariance(rng, d), rng.normal(size=d)
    precision = rng.uniform(0.1, 10.0, size=d) * (rng.uniform(size=d) < 0.7)
    posterior = posteriors.kalman_update(Mixture(np.ones(1), m[None], P[None]), y, precision)
    C = np.linalg.inv(np.linalg.inv(P) + np.diag(precision))
    assert_near(posterior.covariances[0], C, 1e-8)
    assert_near(posterior.means[0], C @ (np.linalg.solve(P, m) + precision * y), 1e-8)


def test_cycles_of_a_linear_model_are_one_regression_on_the_first_state(assert_near):
    rng = np.random.default_rng(0)
    cycles, model, m, P = 6, rng.normal(size=(3, 3)), rng.normal(size=3), random_covariance(rng, 3)
    values, precision = rng.normal(size=(cycles, 3)), rng.uniform(0.0, 2.0, size=(cycles, 3))
    problem = posteriors.linear_problem("any", Mixture(np.ones(1), m[None], P[None]), values, precision, model)
    information, projected = np.linalg.inv(P), np.linalg.solve(P, m)
    for cycle in range(cycles):
        power = np.linalg.matrix_power(model, cycle)
        information = information + power.T @ np.diag(precision[cycle]) @ power
        projected = projected + power.T @ (precision[cycle] * values[cycle])
        assert_near(problem.mean[cycle], power @ np.linalg.solve(information, projected), 1e-8)
        assert_near(problem.covariance[cycle], power @ np.linalg.inv(information) @ power.T, 1e-8)


@pytest.mark.parametrize(("y", "sigma", "scale"), [(2.0, 0.5, 1.0), (-3.0, 0.05, 2.0), (0.0, 4.0, 0.3)])
def test_quadrature_of_a_linear_operator_is_the_conjugate_posterior(x64, y, sigma, scale):
    m, sd = 0.7, 1.3
    problem = posteriors.scalar_problem("any", m, sd, FUNCTIONS["scaled"](scale), y, sigma)
    variance = 1.0 / (sd**-2 + (scale / sigma) ** 2)
    mean = variance * (m / sd**2 + scale * y / sigma**2)
    np.testing.assert_allclose(problem.mean, [[mean]], rtol=1e-10)
    np.testing.assert_allclose(problem.covariance, [[[variance]]], rtol=1e-9)
    draws = np.asarray(problem.sample(KEY, 20_000)).ravel()
    assert stats.kstest(draws, stats.norm(mean, math.sqrt(variance)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", [*ONE_VARIABLE, "gaussian-2-part", "mixture-2"])
def test_prior_draws_weighted_by_their_likelihood_agree(x64, name):
    """Bayes' rule itself, from nothing but the prior's draws, the operator and the data."""
    problem, n = problem_of(name), 100_000
    x = np.asarray(problem.prior(KEY, n))
    values, precision = (a[0] for a in problem.observations)
    misfit = np.where(precision > 0, precision * (np.nan_to_num(values) - np.asarray(problem.operator(x))) ** 2, 0.0)
    weight = np.exp(-0.5 * misfit.sum(1))
    weight /= weight.sum()
    draws = np.asarray(problem.sample(jax.random.key(1), n))[0]
    around = lambda x: (x - problem.mean[0])[:, :, None] * (x - problem.mean[0])[:, None]
    cuts = np.quantile(draws, np.linspace(0.1, 0.9, 9), axis=0)
    below = lambda x: x[:, None] < cuts
    for function, expected in ((lambda x: x, problem.mean[0]), (around, problem.covariance[0]), (below, None)):
        weighed, drawn = function(x), function(draws).mean(0)
        estimate = np.tensordot(weight, weighed, 1)
        error = np.sqrt(np.tensordot(weight**2, (weighed - estimate) ** 2, 1))
        error_of_draws = function(draws).std(0) / math.sqrt(n)
        if expected is not None:
            assert (np.abs(estimate - expected) < 4.5 * error).all()
            assert (np.abs(drawn - expected) < 4.5 * error_of_draws).all()
        assert (np.abs(estimate - drawn) < 4.5 * np.hypot(error, error_of_draws)).all()


# The measures


def test_energy_distance_of_two_gaussians_is_its_closed_form(x64):
    rng = np.random.default_rng(0)
    shift, ratio = 0.6, 1.7
    x, y = rng.normal(shift, ratio, size=(200, 20, 1)), rng.normal(size=(200, 20, 1))
    found = exactness.u_statistic(np.asarray(diagnostics.energy_kernel(x, y)))
    s = math.hypot(1.0, ratio)
    between = s * math.sqrt(2 / math.pi) * math.exp(-0.5 * (shift / s) ** 2) + shift * math.erf(shift / s / 2**0.5)
    expected = 2.0 * between - 2.0 * (1.0 + ratio) / math.sqrt(math.pi)
    assert abs(found.value - expected) < 4.0 * found.error < 0.1


def test_distances_are_those_of_all_pairs(x64, assert_near):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4, 5)), rng.normal(size=(2, 6, 5))
    pairs = np.linalg.norm(x[:, None, :, None] - y[None, :, None], axis=-1)
    assert_near(diagnostics.distances(x, y), pairs.mean((2, 3)), 1e-12)


def test_the_fair_crps_is_the_average_over_pairs(x64, assert_near):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 5)), rng.normal(size=(4, 7))
    within = lambda a: (
        sum(np.abs(a[:, i] - a[:, j]) for i, j in np.ndindex(a.shape[1], a.shape[1])) / (a.shape[1] * (a.shape[1] - 1))
    )
    between = np.abs(x[:, :, None] - y[:, None]).mean((1, 2))
    assert_near(exactness.fair_crps(x, y), between - 0.5 * within(x) - 0.5 * within(y), 1e-12)


@pytest.mark.parametrize(("bias", "too_large"), [(0.0, 1.3), (1.0, 1.0)])
def test_the_u_statistic_is_unbiased_and_its_error_is_what_it_says(bias, too_large):
    errors = np.random.default_rng(0).normal(bias, 1.0, size=(2000, 40))
    found = np.array([exactness.u_statistic(np.outer(e, e)) for e in errors])
    assert abs(found[:, 0].mean() - bias**2) < 4.0 * found[:, 0].std() / math.sqrt(2000)
    root_mean_square = math.sqrt((found[:, 1] ** 2).mean())
    assert root_mean_square / found[:, 0].std() == pytest.approx(too_large, rel=0.1)
    if bias == 0.0:
        assert np.mean(np.abs(found[:, 0]) > 4.0 * found[:, 1]) < 0.002


@pytest.mark.parametrize("name", ["gaussian-1", "gaussian-5"])
def test_mean_squares_of_exact_draws_are_those_of_sampling(x64, name):
    members, repetitions = 6, 1000
    problem, found = problem_of(name), analyses("exact", name, members, repetitions)
    result = exactness.compared(problem, found, exactness.exact_draws(problem, KEY, 2, repetitions))
    size = np.trace(problem.covariance[0]) / np.linalg.norm(problem.covariance[0])
    expected = {"mean_mse": 1.0 / members, "covariance_mse": (1.0 + size**2) / (members - 1)}
    for measure, square in expected.items():
        assert abs(result[measure].value - square) < 4.0 * result[measure].error < square


HEAVY = {"rotation", "gaussian-20-part"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in PROBLEMS])
def test_exact_draws_have_no_error_and_wrong_ones_have(x64, name):
    problem = problem_of(name)
    d = problem.mean.shape[1]
    right = analyses("exact", name)
    found = compared(name, right)
    assert set(found) == {"mean", "covariance", "energy", "mean_mse", "covariance_mse"} | (
        {"crps"} if d == 1 else set()
    )
    for measure in set(found) - {"mean_mse", "covariance_mse"}:
        assert abs(found[measure].value) < 4.0 * found[measure].error < 0.15, measure
    assert abs(found["mean_mse"].value - 1.0 / MEMBERS) < 4.0 * found["mean_mse"].error
    sd = np.sqrt(np.diagonal(problem.covariance, axis1=1, axis2=2))[:, None]
    shifted = compared(name, right + 0.5 * sd)
    assert abs(shifted["mean"].value - 0.25) < 4.0 * shifted["mean"].error < 0.25
    assert shifted["energy"].value > 4.0 * shifted["energy"].error
    around = right - problem.mean[:, None]
    wide = compared(name, problem.mean[:, None] + 1.5 * around)
    assert abs(wide["covariance"].value - 1.25**2) < 4.0 * wide["covariance"].error < 1.25**2
    assert wide["energy"].value > 4.0 * wide["energy"].error
    if d == 1:
        assert min(case["crps"].value / case["crps"].error for case in (shifted, wide)) > 3.0
    prior = compared(name, analyses("free-run", name))
    assert prior["energy"].value > 4.0 * prior["energy"].error
    assert prior["energy"].value > 0.02


def test_what_is_not_finite_is_seen(x64):
    right = np.array(analyses("exact", "gaussian-1"))
    right[3, 0, 2, 0] = np.inf
    assert all(math.isnan(measure.value) for measure in compared("gaussian-1", right).values())


def test_numbers_that_leave_no_error_are_refused():
    problem, analysis = problem_of("gaussian-1"), filter_of("exact", "gaussian-1")
    with pytest.raises(ValueError, match=r"repetitions = 2 leaves .* use at least 3"):
        exactness.measured(problem, analysis, KEY, 20, 2)
    with pytest.raises(ValueError, match=r"members = 1 leaves .* use at least 2"):
        exactness.measured(problem, analysis, KEY, 1, 20)


# What the filters do


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian-2-part", "rotation"])
def test_the_letkf_of_a_linear_problem_converges_as_the_root_of_its_members(x64, name):
    members = np.array([12, 36, 108])
    found = [compared(name, analyses("letkf", name, m, 48)) for m in members]
    for measure in ("mean_mse", "covariance_mse"):
        rms = np.sqrt([result[measure].value for result in found])
        slope = np.polyfit(np.log(members), np.log(rms), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.15), (measure, rms)
    assert abs(found[-1]["energy"].value) < 4.0 * found[-1]["energy"].error + 1e-3


def test_carried_to_the_end_the_published_score_gives_the_prior_whatever_is_observed(x64):
    prior, found = (np.asarray(analyses(name, "gaussian-5", steps=400)) for name in ("free-run", "ensf-to-0"))
    assert math.sqrt(np.mean((found - prior) ** 2)) < 0.1 * prior.std()  # the last steps' noise
    of_prior, of_found = (compared("gaussian-5", result)["mean"] for result in (prior, found))
    assert of_found.value == pytest.approx(of_prior.value, rel=0.05)


@pytest.mark.slow
def test_the_closed_form_score_chooses_among_the_members(x64):
    prior, found = (np.asarray(analyses(name, "gaussian-5", steps=400))[:, 0] for name in ("free-run", "softmax"))
    apart = np.abs(found[:, :, None] - prior[:, None]).max(-1)
    assert np.median(apart.min(2)) < 0.1 * prior.std()
    assert np.mean(apart.argmin(2) == np.arange(MEMBERS)) < 0.5
    result = compared("gaussian-5", found[:, None])
    assert math.sqrt(result["mean"].value) > 0.3  # posterior standard deviations, and no more steps help


@pytest.mark.slow
def test_published_spreads_are_the_priors_and_their_means_still_are_off(x64):
    prior, found, unrelaxed = (
        np.asarray(analyses(name, "gaussian-5")) for name in ("free-run", "ensf", "ensf-unrelaxed")
    )
    np.testing.assert_allclose(found.std(2), prior.std(2), rtol=1e-10)
    np.testing.assert_allclose(found.mean(2), unrelaxed.mean(2), rtol=1e-8)
    result = compared("gaussian-5", found)
    assert result["covariance"].value > 10.0 * result["covariance"].error
    assert result["mean"].value > 3.0 * result["mean"].error


# Properties of every filter that has them

D = 3
ENSF = [name for name in FILTERS if name.startswith(("ensf", "softmax")) and name != "ensf-tan"]  # tan is of arctan
RELAXED = ["ensf", "ensf-exponential", "ensf-quadratic", "ensf-undamped", "ensf-eps-beta"]
seeds = st.integers(0, 999)


@cache
def jitted(name):
    return jax.jit(FILTERS[name](posteriors.gaussian("any", D), 30))


def case(seed, members=6):
    """An ensemble and an observation of it, precise enough to matter and not so precise that Euler's steps fail."""
    rng = np.random.default_rng(seed)
    ensemble = rng.normal(size=(members, D)) @ random_covariance(rng, D) + rng.normal(size=D)
    variance = ensemble.var(0, ddof=1)
    values = ensemble.mean(0) + rng.normal(size=D) * np.sqrt(variance)
    precision = rng.uniform(0.2, 2.0, size=D) * (rng.uniform(size=D) < 0.7) / variance
    return ensemble, Observation(values, precision)


@pytest.mark.parametrize("name", ["letkf", "local-score-given", *ENSF])
@few
@given(seed=seeds, shift=st.floats(-20.0, 20.0), factor=st.floats(0.1, 50.0))
def test_analyses_know_no_origin_and_no_unit(x64, assert_near, name, seed, shift, factor):
    ensemble, (values, precision) = case(seed)
    result = np.asarray(jitted(name)(KEY, ensemble, Observation(values, precision)))
    moved = Observation(factor * values + shift, precision / factor**2)
    again = np.asarray(jitted(name)(KEY, factor * ensemble + shift, moved))
    assert_near((again - shift) / factor, result, 1e-7)


@pytest.mark.parametrize("name", RELAXED)
@few
@given(seed=seeds)
def test_relaxed_analyses_have_the_priors_spread(x64, name, seed):
    ensemble, observation = case(seed)
    result = np.asarray(jitted(name)(KEY, ensemble, observation))
    np.testing.assert_allclose(result.std(0), ensemble.std(0), rtol=1e-9)


@few
@given(seed=seeds)
def test_the_letkf_without_observations_does_nothing(x64, assert_near, seed):
    ensemble, (values, precision) = case(seed)
    assert_near(jitted("letkf")(KEY, ensemble, Observation(values, 0.0 * precision)), ensemble, 1e-13)


@few
@given(seed=seeds, order=st.permutations(range(6)))
def test_the_letkf_does_not_know_its_members_by_number(x64, assert_near, seed, order):
    ensemble, observation = case(seed)
    result = np.asarray(jitted("letkf")(KEY, ensemble, observation))
    assert_near(jitted("letkf")(KEY, ensemble[list(order)], observation), result[list(order)], 1e-11)


@few
@given(seed=seeds, more=st.floats(0.0, 1e3))
def test_more_precise_observations_never_increase_the_letkfs_variance(x64, seed, more):
    ensemble, (values, precision) = case(seed)
    extra = more * np.random.default_rng(seed).uniform(size=D) / ensemble.var(0)
    covariance = lambda r: np.cov(jitted("letkf")(KEY, ensemble, Observation(values, r)), rowvar=False)
    less, most = covariance(precision), covariance(precision + extra)
    assert np.linalg.eigvalsh(less - most).min() > -1e-10 * np.trace(less)  # in every direction


# The script


script = calling.script("exactness")


run = partial(calling.call, script)


def test_the_script_prints_and_keeps_what_was_measured(tmp_path, settings_of_jax):
    chosen = ("--filters", "letkf,ensf-tan", "--problems", "gaussian-1,arctan", "--repetitions", 8)
    status, out, _ = run(*chosen, "--members", 5, "--steps", "10,20", "--out", tmp_path / "a.csv")
    assert status == 0
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    what = [(row["problem"], row["filter"], row["members"], row["steps"]) for row in rows]
    letkf = [(problem, "letkf", "5", "") for problem in ("gaussian-1", "arctan")]
    assert what == letkf + [("arctan", "ensf-tan", "5", steps) for steps in ("10", "20")]
    assert 'ensf-tan leaves gaussian-1 out: likelihood = "tan" is for the operator arctan' in out
    with jax.enable_x64(True):
        problem = PROBLEMS["gaussian-1"]()
        expected = exactness.measured(problem, FILTERS["letkf"](problem, 10), KEY, 5, 8)
    for measure, (value, error) in expected.items():
        assert float(rows[0][measure]) == pytest.approx(value, rel=1e-4)
        assert float(rows[0][f"{measure}_error"]) == pytest.approx(error, rel=1e-4)
    assert f"{expected['energy'].value:.3f} ± {expected['energy'].error:.3f}" in out


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        ((0.25, 0.01), "0.500 ± 0.010"),
        ((0.01, 0.04), "< 0.300"),
        ((-0.01, 0.02), "< 0.200"),
        ((math.nan, math.nan), "not finite"),
    ],
)
def test_roots_are_shown_where_squares_are_seen(measure, text):
    assert script.root(exactness.Measure(*measure)) == text
