"""EnSF: closed forms of its score and of its marginals, what it does to the members, and what it costs."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.scipy.special import logsumexp
from scipy.integrate import solve_ivp

from jaxda.filters import ensf
from jaxda.filters.ensf import EnSFConfig
from jaxda.observations import FUNCTIONS, Observation, Operator, PointFunction
from jaxda.parallel import mesh

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 1000)
D = 5
#: the bare reverse SDE: nothing is scaled, relaxed or ended early
BARE = {"normalise": False, "relaxation": 0.0, "spread_cap": math.inf, "tolerance": 0.0}
#: carried to t = 0 in steps fine enough that a path's last noise, of size sqrt(dt), is small
TO_THE_END = BARE | {"stop": 0.0, "steps": 1000, "integrator": "exponential"}


def identity(d=D, positions=None):
    return Operator((d,), FUNCTIONS["identity"](1.0), positions)


def arctan(scale=0.5, d=D):
    return Operator((d,), FUNCTIONS["arctan"](scale))


ON_GRID = identity()


@cache  # tests with the same settings share what was compiled for them
def analysis_of(operator=ON_GRID, initial_spread=1.0, **given):
    return jax.jit(ensf.make_analysis(EnSFConfig(**given), operator, initial_spread))


def prior(members=8, d=D, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, size=(members, d))


def observed(values, sigma):
    values = np.broadcast_to(values, (D,)).astype(float)
    return Observation(values, np.full(values.shape, sigma**-2.0))


NOTHING = Observation(np.full(D, np.nan), np.zeros(D))


def distance_to_nearest(result, members):
    return np.abs(np.asarray(result)[:, None] - members).max(-1).min(1)


# The score


@pytest.mark.parametrize(("eps_alpha", "eps_beta"), [(0.05, 0.0), (0.01, 0.05), (1e-3, 0.3)])
def test_schedule_follows_its_definition(x64, eps_alpha, eps_beta):
    config = EnSFConfig(eps_alpha=eps_alpha, eps_beta=eps_beta)
    t = jnp.linspace(0.0, 1.0, 21)
    alpha, beta2, b, sigma2 = ensf.schedule(config, t)
    np.testing.assert_allclose(alpha, np.linspace(1.0, eps_alpha, 21), rtol=1e-12)
    np.testing.assert_allclose(beta2, np.linspace(eps_beta, 1.0, 21), rtol=1e-12)
    slope = lambda function: jax.vmap(jax.grad(function))(t)
    np.testing.assert_allclose(b, slope(lambda t: jnp.log(ensf.schedule(config, t)[0])), rtol=1e-12)
    growth = slope(lambda t: ensf.schedule(config, t)[1])
    np.testing.assert_allclose(sigma2, growth - 2.0 * b * beta2, rtol=1e-12)


@jax.jit
def scores_of_the_mixture(z, alpha, beta2, kernels):
    """At each z, in closed form and by differentiating the log density."""
    log_density = lambda z: logsumexp(-0.5 * ((z - alpha * kernels) ** 2).reshape(len(kernels), -1).sum(1) / beta2)
    return jax.vmap(lambda z: ensf.prior_score(z, alpha, beta2, kernels))(z), jax.vmap(jax.grad(log_density))(z)


@pytest.mark.parametrize("shape", [(1,), (2, 4, 4)])
@given(t=st.floats(0.02, 1.0), members=st.sampled_from([1, 5]), seed=st.integers(0, 99))
def test_prior_score_is_the_gradient_of_the_mixtures_log_density(x64, assert_near, shape, t, members, seed):
    rng = np.random.default_rng(seed)
    kernels, z = rng.normal(size=(members, *shape)), rng.normal(size=(3, *shape))
    assert_near(*scores_of_the_mixture(z, 1.0 - 0.95 * t, t, kernels), 1e-9)


def test_one_kernel_gives_the_score_of_a_gaussian(x64, assert_near):
    z, x = prior(2)
    assert_near(ensf.prior_score(z, 0.4, 0.7, x[None]), -(z - 0.4 * x) / 0.7, 1e-14)


@pytest.mark.parametrize(("d", "collapsed"), [(1, False), (2000, True)])
def test_in_high_dimension_one_member_takes_all_the_weight(x64, d, collapsed):
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(20, d))
    z = 0.5 * kernels[3] + math.sqrt(0.5) * rng.normal(size=d)  # of member 3 at t = 0.5
    mixture, own = (ensf.prior_score(z, 0.5, 0.5, x) for x in (kernels, kernels[3:4]))
    assert np.allclose(mixture, own, rtol=0, atol=1e-10) == collapsed


# The path


def moments_of_a_gaussian(config, x, y, precision):
    """Mean and variance of z at `config.stop`: per-member score, identity observed. Everything is linear in z."""

    def rates(since_start, moments):
        alpha, beta2, b, sigma2 = (float(a) for a in ensf.schedule(config, 1.0 - since_start))
        pull = sigma2 * precision * {"linear": since_start, "quadratic": since_start**2, "none": 1.0}[config.damping]
        mean, variance = moments
        decay = b + sigma2 / beta2 + pull
        return -decay * mean + sigma2 * alpha * x / beta2 + pull * y, -2.0 * decay * variance + sigma2

    return solve_ivp(rates, (0.0, 1.0 - config.stop), (0.0, 1.0), rtol=1e-6, method="LSODA").y[:, -1]


@pytest.mark.parametrize(("integrator", "steps", "points"), [("euler", 1000, 20_000), ("exponential", 14, 100_000)])
@pytest.mark.parametrize(("damping", "eps_beta"), [("linear", 0.0), ("quadratic", 0.05), ("none", 0.0)])
def test_stopped_half_way_the_marginal_is_the_closed_form(x64, integrator, steps, points, damping, eps_beta):
    config = EnSFConfig(integrator=integrator, steps=steps, damping=damping, eps_beta=eps_beta, **BARE)
    x, y, precision = 1.5, -1.0, 4.0
    z = ensf.reverse_sde(  # every point is a path of its own
        KEY, config, jnp.full((1, points), x), lambda z: precision * (y - z), lambda z: jnp.full_like(z, precision)
    )
    mean, variance = moments_of_a_gaussian(config, x, y, precision)
    four = 4.0 / math.sqrt(points)  # standard errors; the rest is for the discretisation
    assert abs(z.mean() - mean) < (four + 0.03) * math.sqrt(variance)
    assert abs(z.var() / variance - 1.0) < four * math.sqrt(2.0) + 0.01


@pytest.mark.parametrize(
    ("integrator", "steps", "stop"), [("euler", 400, 0.5), ("exponential", 100, 0.5), ("exponential", 100, 0.0)]
)
def test_without_observations_the_closed_form_score_samples_the_mixture(x64, integrator, steps, stop):
    config = EnSFConfig(
        weights="softmax", eps_alpha=0.01, integrator=integrator, **BARE | {"stop": stop, "steps": steps}
    )
    kernels = np.array([[-2.0], [1.0], [1.5], [2.5]])
    nothing = jnp.zeros_like
    sample = jax.jit(jax.vmap(lambda key: ensf.reverse_sde(key, config, kernels, nothing, nothing)))
    z = np.asarray(sample(KEYS)).ravel()
    alpha, beta2 = (float(a) for a in ensf.schedule(config, stop)[:2])
    mean, variance = alpha * kernels.mean(), alpha**2 * kernels.var() + beta2
    four = 4.0 / math.sqrt(len(z))
    assert abs(z.mean() - mean) < (four + 0.01) * math.sqrt(variance)
    assert abs(z.var() / variance - 1.0) < four * math.sqrt(2.0) + 0.02
    if stop == 0.0:
        drawn = np.bincount(np.abs(z[:, None] - kernels[:, 0]).argmin(1), minlength=4) / len(z)
        np.testing.assert_allclose(drawn, 0.25, atol=four * math.sqrt(0.25 * 0.75) + 0.02)


@pytest.mark.parametrize("normalise", [False, True])
def test_at_the_end_every_path_of_its_own_kernel_is_the_forecast_whatever_is_observed(x64, normalise):
    members, observation = prior(), observed(20.0, sigma=2.0)
    result = analysis_of(**TO_THE_END | {"normalise": normalise})(KEY, members, observation)
    assert np.abs(result - members).max() < 0.2


def test_half_way_every_path_follows_the_observations(x64):
    posterior, members = analysis_of(**TO_THE_END | {"stop": 0.5}), prior()
    without, there = (posterior(KEY, members, seen) for seen in (NOTHING, observed(20.0, sigma=2.0)))
    assert np.all(there - without > 1.0)  # of one key, so of one noise


@pytest.mark.parametrize("weights", ["per-member", "softmax"])
@pytest.mark.parametrize("nothing", [NOTHING, Observation(np.full(D, 9.0), np.zeros(D))])
def test_without_observations_paths_end_on_members(x64, weights, nothing):
    members = prior()
    result = analysis_of(**TO_THE_END | {"weights": weights})(KEY, members, nothing)
    assert distance_to_nearest(result, members).max() < 0.1
    assert np.allclose(result, members, rtol=0, atol=0.1) == (weights == "per-member")


def test_the_closed_form_score_chooses_among_the_members_but_not_by_their_likelihood(x64):
    config = EnSFConfig(weights="softmax", **TO_THE_END | {"steps": 300, "eps_alpha": 0.01})
    kernels, y = np.array([[0.0], [1.0], [4.0]]), 0.5  # the last member is all but excluded by what is observed
    score, stiff = lambda z: y - z, jnp.ones_like
    z = np.asarray(jax.jit(jax.vmap(lambda key: ensf.reverse_sde(key, config, kernels, score, stiff)))(KEYS)).ravel()
    distance = np.abs(z[:, None] - kernels[:, 0])
    assert distance.min(1).max() < 0.3
    share = np.bincount(distance.argmin(1), minlength=3) / len(z)
    likelihood = np.exp(-0.5 * (y - kernels[:, 0]) ** 2)
    assert likelihood[2] / likelihood.sum() < 0.002
    assert 0.1 < share[2] < 0.3  # a third without observations: h(t) = 1 - t lets them in too late


@pytest.mark.parametrize(("integrator", "steps", "stable"), [("exponential", 50, True), ("euler", 100, False)])
def test_precise_observations_break_euler_alone(integrator, steps, stable):
    given = {"integrator": integrator, "steps": steps, "tolerance": 0.0, "relaxation": 0.0, "spread_cap": math.inf}
    members = prior().astype(np.float32)
    y = members.mean(0) + 1.0
    result = analysis_of(**given)(KEY, members, observed(y, sigma=0.01 * 2.0))
    close = np.isfinite(result).all() and np.abs(result - y).max() < 0.5
    assert close == stable


# Ending early


@pytest.mark.parametrize("steps", [50, 100])
@pytest.mark.parametrize("moving", [0, 12, 30, 1000])
def test_a_path_ends_where_the_running_mean_of_its_mean_stands_still(x64, steps, moving):
    total, window, tolerance = steps // 2, steps // 5, 0.07
    means = np.minimum(np.arange(1, total + 1), moving).astype(float)  # after 1, 2, ... steps
    running = np.convolve(means, np.full(window, 1.0 / window), "valid")
    steady = np.flatnonzero(np.diff(running)[1:] < tolerance)  # asked from its second change on
    expected = min([total, *(steady + window + 2)])

    def advance(z, step, drawn):  # the second value counts the steps, too slowly to matter
        return jnp.stack([z[:, 0] + (step < moving), z[:, 1] + 1e-6], axis=1)

    config = EnSFConfig(steps=steps, tolerance=tolerance)
    z = ensf._until_steady(advance, lambda step: None, jnp.zeros((3, 2)), total, config)
    np.testing.assert_allclose(z, [[min(moving, expected), 1e-6 * expected]] * 3)


@pytest.mark.parametrize(("tolerance", "taken"), [(0.0, 25), (1e-30, 25), (1e9, 12)])
def test_tolerance_says_how_soon_a_path_ends(x64, tolerance, taken):
    x, points, dt = 10.0, 20_000, 1.0 / 50.0
    config = EnSFConfig(**BARE | {"steps": 50, "tolerance": tolerance})
    nothing = jnp.zeros_like
    z = ensf.reverse_sde(KEY, config, jnp.full((1, points), x), nothing, nothing)
    mean = [0.0]  # Euler's own: it moves by 0.2 a step, so it tells the number of steps
    for step in range(25):
        alpha, beta2, b, sigma2 = (float(a) for a in ensf.schedule(config, 1.0 - step * dt))
        mean.append(mean[-1] + dt * (-b * mean[-1] - sigma2 * (mean[-1] - alpha * x) / beta2))
    assert np.abs(np.array(mean) - z.mean()).argmin() == taken
    assert abs(z.mean() - mean[taken]) < 4.0 * z.std() / math.sqrt(points)


# The ensemble


def test_members_with_kernels_of_their_own_know_nothing_of_each_other(x64, assert_near):
    members, observation = prior(), observed(2.0, sigma=0.7)
    posterior = analysis_of(**BARE | {"steps": 40})
    assert_near(posterior(KEY, members[:3], observation), posterior(KEY, members, observation)[:3], 1e-12)


def test_every_path_has_noise_of_its_own(x64):
    z = ensf.reverse_sde(KEY, EnSFConfig(**BARE | {"steps": 50}), jnp.zeros((2000, 2)), jnp.zeros_like, jnp.zeros_like)
    np.testing.assert_allclose(np.corrcoef(z.T), np.eye(2), atol=0.1)
    np.testing.assert_allclose(np.corrcoef(z[:1000, 0], z[1000:, 0]), np.eye(2), atol=0.15)
    np.testing.assert_allclose(z.var(0), 0.5, rtol=0.15)


def test_the_key_decides(x64):
    members, observation = prior(), observed(2.0, sigma=0.7)
    posterior = analysis_of(steps=50)
    first, again, other = (np.asarray(posterior(key, members, observation)) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


@pytest.mark.parametrize("given", [{}, {"weights": "softmax", "integrator": "exponential", "tolerance": 0.0}])
def test_single_precision_is_kept_where_double_is_the_default(x64, given):
    single = Observation(*(a.astype(np.float32) for a in observed(2.0, sigma=0.7)))
    result = analysis_of(steps=50, **given)(KEY, prior().astype(np.float32), single)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()


def test_relaxation_mixes_in_the_forecasts_spread(x64, assert_near):
    members, observation = prior(), observed(2.0, sigma=0.5)
    given = {"steps": 50, "spread_cap": math.inf}
    free, relaxed = (np.asarray(analysis_of(relaxation=s, **given)(KEY, members, observation)) for s in (0.0, 0.4))
    assert_near(relaxed.std(0, ddof=1), 0.6 * free.std(0, ddof=1) + 0.4 * members.std(0, ddof=1), 1e-12)
    assert_near(relaxed.mean(0), free.mean(0), 1e-12)
    assert not np.allclose(free.std(0, ddof=1), members.std(0, ddof=1), rtol=0.05)


def test_spreads_over_the_cap_go_back_to_the_initial_one(x64, assert_near):
    members = prior() * np.array([0.01, 0.5, 1.0, 4.0, 16.0])
    result = analysis_of(steps=50, spread_cap=1.5, initial_spread=1.7, integrator="exponential")(
        KEY, members, observed(2.0, sigma=0.5)
    )
    spread = members.std(0, ddof=1)
    over = spread > 1.5 * 1.7
    assert 0 < over.sum() < D
    assert_near(np.std(result, axis=0, ddof=1), np.where(over, 1.7, spread), 1e-12)


def test_a_minibatch_of_all_members_is_all_of_them(x64):
    members, observation = prior(), observed(2.0, sigma=0.7)
    results = {
        size: np.asarray(analysis_of(weights="softmax", steps=30, minibatch=size)(KEY, members, observation))
        for size in (None, 3, 8)
    }
    np.testing.assert_array_equal(results[8], results[None])
    assert np.isfinite(results[3]).all()
    assert not np.allclose(results[3], results[None], atol=0.1)


@pytest.mark.parametrize("normalise", [True, False])
def test_normalised_paths_do_not_know_the_unit(x64, normalise):
    factor, shift, sigma = 40.0, 7.0, 0.7
    posterior = analysis_of(steps=50, normalise=normalise, spread_cap=math.inf)
    result = np.asarray(posterior(KEY, prior(), observed(2.0, sigma)))
    moved = posterior(KEY, factor * prior() + shift, observed(factor * 2.0 + shift, factor * sigma))
    same = np.allclose(moved, factor * result + shift, rtol=1e-9, atol=1e-9)
    assert same == normalise


def test_members_that_agree_at_a_point_stay_finite(x64):
    members = prior()
    members[:, 2] = 4.0
    assert np.isfinite(analysis_of(steps=50)(KEY, members, observed(2.0, sigma=0.7))).all()


# The observations


def test_what_is_nan_is_not_observed(x64):
    members, posterior = prior(), analysis_of(steps=50)
    values, precision = observed(np.arange(5.0), sigma=0.7)
    nan, nothing, all_seen = (
        np.asarray(posterior(KEY, members, Observation(v, r)))
        for v, r in (
            (np.where(np.arange(D) == 3, np.nan, values), precision),
            (values, np.where(np.arange(D) == 3, 0.0, precision)),
            (values, precision),
        )
    )
    np.testing.assert_array_equal(nan, nothing)
    assert (nan[:, 3] != all_seen[:, 3]).all()


def likelihood_of(monkeypatch, operator, observation, **given):
    """Score and stiffness of the likelihood that the path is given, in its own normalised variable."""
    caught = {}

    def catch(key, config, kernels, likelihood, stiff, axis, first):
        caught.update(likelihood=likelihood, stiff=stiff)
        return kernels

    monkeypatch.setattr(ensf, "reverse_sde", catch)
    ensf.make_analysis(EnSFConfig(**given), operator, 1.0)(KEY, prior(), observation)
    return caught["likelihood"], caught["stiff"]


POSITIONS = np.array([[0.0], [1.25], [3.9]])
SINE = Operator((D,), PointFunction(lambda x: jnp.sin(0.3 * x)), POSITIONS)


@pytest.mark.parametrize(
    ("operator", "normalise"),
    [(identity(), True), (identity(), False), (identity(positions=POSITIONS), True), (arctan(), True), (SINE, True)],
)
def test_the_path_feels_the_true_likelihood(x64, assert_near, monkeypatch, operator, normalise):
    rng = np.random.default_rng(5)
    values, sigma = (rng.uniform(0.2, 1.2, size=operator.values_shape) for _ in range(2))
    score, stiff = likelihood_of(monkeypatch, operator, Observation(values, sigma**-2), normalise=normalise)
    scale, mean = (prior().std(0, ddof=1), prior().mean(0)) if normalise else (1.0, 0.0)
    residual = lambda z: (values - operator(mean + scale * z)) / sigma
    z = rng.normal(size=D)
    slopes = np.asarray(jax.jit(jax.jacfwd(residual))(z))
    assert_near(jax.jit(score)(z), -slopes.T @ residual(z), 1e-12)
    assert (np.asarray(jax.jit(stiff)(z)) >= (slopes**2).sum(0) * (1 - 1e-12)).all()


def test_the_published_likelihood_of_arctan_data(x64, assert_near, monkeypatch):
    operator, z = arctan(scale=0.5), np.random.default_rng(5).normal(size=D)
    observation = observed(operator(jnp.full(D, 4.0)), sigma=0.1)
    score, stiff = likelihood_of(monkeypatch, operator, observation, likelihood="tan")
    data = (4.0 - prior().mean(0)) / prior().std(0, ddof=1)  # tan of the data, normalised ...
    width = 5.0 * 0.5 * 0.1  # ... and put through arctan again, with a wider error
    slope = 0.5 / (1.0 + 0.25 * z**2) / width
    assert_near(score(z), slope * (np.arctan(0.5 * data) - np.arctan(0.5 * z)) / width, 1e-10)
    assert_near(stiff(z), slope**2, 1e-12)


def test_the_published_likelihood_makes_another_analysis(x64):
    observation = observed(arctan()(jnp.full(D, 4.0)), sigma=0.1)
    given = {"operator": arctan(), "steps": 50, "integrator": "exponential"}
    true, tan = (
        np.asarray(analysis_of(likelihood=name, **given)(KEY, prior(), observation)) for name in ("true", "tan")
    )
    assert np.isfinite(tan).all()
    assert (true.mean(0) != tan.mean(0)).all()


# Settings, cost


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eps_alpha": 1.0}, ["eps_alpha = 1", "below 1"]),
        ({"eps_alpha": 0.0}, ["eps_alpha", "greater than 0"]),
        ({"eps_beta": -0.1}, ["eps_beta", "-0.1"]),
        ({"minibatch": 4}, ["minibatch = 4", "softmax"]),
        ({"stop": 1.0}, ["stop = 1", "smaller stop"]),
        ({"stop": 0.9, "steps": 4}, ["stop = 0.9", "of 4", "more steps"]),
        ({"steps": 0}, ["steps", "greater than or equal to 1"]),
        ({"tolerance": -1.0}, ["tolerance", "-1"]),
        ({"spread_cap": 0.0}, ["spread_cap", "greater than 0"]),
        ({"integrator": "heun"}, ["integrator", "heun", "euler"]),
    ],
)
def test_bad_settings_are_refused(given, words):
    with pytest.raises(ValueError, match="validation error") as refusal:
        EnSFConfig(**given)
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_settings_that_do_not_fit_the_rest_are_refused():
    with pytest.raises(ValueError, match=r"spread_cap needs an initial_spread; give initial\.noise"):
        ensf.make_analysis(EnSFConfig(), identity())
    with pytest.raises(ValueError, match=r"likelihood = \"tan\" is for the operator arctan"):
        ensf.make_analysis(EnSFConfig(likelihood="tan"), identity(), 1.0)
    ensf.make_analysis(EnSFConfig(spread_cap=math.inf), identity())


@pytest.mark.parametrize("weights", ["per-member", "softmax"])
def test_memory_grows_with_the_members_not_their_square(weights):
    members, d = 64, 20_000
    posterior = analysis_of(identity(d), weights=weights)
    state = jax.ShapeDtypeStruct((d,), jnp.float32)
    ensemble = jax.ShapeDtypeStruct((members, d), jnp.float32)
    compiled = posterior.lower(KEY, ensemble, Observation(state, state)).compile()
    # the tolerance's ring of 200 means is the largest part
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * members * members * d * 4


# Blocks


@pytest.mark.parametrize("given", [{}, {"integrator": "exponential"}, {"likelihood": "tan"}])
def test_paths_by_blocks_of_points_are_those_of_the_whole(x64, assert_near, monkeypatch, given):
    rng = np.random.default_rng(0)
    members, operator = rng.normal(size=(4, 2, 6, 6)), Operator((2, 6, 6), FUNCTIONS["arctan"](1.0))
    observation = Observation(rng.uniform(-1.0, 1.0, (2, 6, 6)), 100.0 * (rng.uniform(size=(2, 6, 6)) < 0.7))
    config = EnSFConfig(**{"steps": 20, "tolerance": 0.0} | given)
    whole = ensf.make_analysis(config, operator, 1.0)(KEY, members, observation)
    monkeypatch.setattr(ensf, "LARGEST_BLOCK", 24)
    monkeypatch.setattr(mesh, "LARGE", 8)
    assert ensf.blocks_of(members[0]) == 3
    assert_near(ensf.make_analysis(config, operator, 1.0)(KEY, members, observation), whole, 1e-13)


def test_sizes_that_no_number_of_blocks_divides_stay_whole(monkeypatch):
    monkeypatch.setattr(mesh, "LARGE", 8)
    monkeypatch.setattr(ensf, "LARGEST_BLOCK", 24)
    assert [ensf.blocks_of(np.zeros(size)) for size in (24, 48, 50, 53)] == [1, 2, 5, 1]
