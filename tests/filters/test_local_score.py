"""The local score filter: the Kalman analysis where that is exact, and what it promises elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jaxda.filters import local_score
from jaxda.filters.local_score import LocalScoreConfig
from jaxda.filters.localization import Geometry
from jaxda.observations import FUNCTIONS, Observation, Operator, PointFunction
from jaxda.parallel.mesh import member_mesh

KEY = jax.random.key(0)
SHAPE = (2, 6, 6)
GEOMETRY = Geometry(SHAPE, spacing=500.0, boundary_distance=1000.0)
ON_GRID = Operator(SHAPE, FUNCTIONS["identity"](1.0))
LINE = Geometry((12,), spacing=1.0)
IDENTITY = Operator((12,), FUNCTIONS["identity"](1.0))


def analysis_of(geometry=LINE, operator=IDENTITY, mesh=None, **given):
    config = LocalScoreConfig(**({"cutoff": np.inf} | given))
    return jax.jit(local_score.make_analysis(config, geometry, operator, mesh))


def prior(members=6, shape=(12,), seed=0):
    return np.random.default_rng(seed).normal(10.0, 2.0, size=(members, *shape))


def everywhere(shape=(12,), seed=1):
    rng = np.random.default_rng(seed)
    return Observation(rng.normal(10.0, 2.0, size=shape), rng.uniform(0.5, 2.0, size=shape))


def kalman(covariance, mean, values, precision):
    """Exact analysis for the observed points, in the form with inverse covariances of the data."""
    seen = np.flatnonzero(precision)
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + np.diag(1.0 / precision[seen]))
    return mean + gain @ (values - mean)[seen], covariance - gain @ covariance[seen]


# The linear Gaussian case


@pytest.mark.parametrize("seen", [slice(None), slice(0, 12, 3)])
@pytest.mark.parametrize("full_rank", [0.0, 1.5])
@pytest.mark.parametrize("inflation", [1.0, 2.0])
def test_mean_is_the_kalman_analysis(x64, assert_near, seen, full_rank, inflation):
    ensemble, observation = prior(), everywhere()
    precision = np.zeros(12)
    precision[seen] = observation.precision[seen]
    analysed = analysis_of(inflation=inflation, full_rank=full_rank)(
        KEY, ensemble, Observation(observation.values, precision)
    )
    covariance = inflation * np.cov(ensemble, rowvar=False) + full_rank**2 * np.eye(12)
    mean, posterior = kalman(covariance, ensemble.mean(0), observation.values, precision)
    assert_near(analysed.mean(0), mean, 1e-9)
    if full_rank == 0:
        assert_near(np.cov(analysed, rowvar=False), posterior, 1e-9)


def test_spread_is_the_kalman_filters_in_the_mean(x64):
    """With a white part members cannot have its covariance; at each point their variance is right in expectation."""
    rng = np.random.default_rng(2)
    ensemble, precision, full_rank, draws = prior(8), np.where(np.arange(12) % 3 > 0, 1.0, 0.0), 1.5, 3000
    covariance = np.cov(ensemble, rowvar=False) + full_rank**2 * np.eye(12)
    root = np.linalg.cholesky(covariance)
    truth = ensemble.mean(0) + rng.normal(size=(draws, 12)) @ root.T
    values = truth + rng.normal(size=truth.shape)
    analysis = analysis_of(inflation=1.0, full_rank=full_rank)
    keys = jax.random.split(KEY, draws)
    analysed = jax.vmap(lambda key, y: analysis(key, ensemble, Observation(y, precision)))(keys, values)
    variance = np.asarray(analysed).var(1, ddof=1)
    exact = np.diag(kalman(covariance, ensemble.mean(0), values[0], precision)[1])
    error = variance.std(0) / np.sqrt(draws)
    assert (np.abs(variance.mean(0) - exact) < 5 * error + 1e-9).all()
    # and that is the error there really is
    actual = ((np.asarray(analysed).mean(1) - truth) ** 2).mean(0)
    np.testing.assert_allclose(actual, exact, rtol=0.15)


def test_between_grid_points_the_white_part_is_interpolated(x64, assert_near):
    positions = np.random.default_rng(4).uniform(0.0, 12.0, size=(7, 1))
    operator = Operator((12,), FUNCTIONS["identity"](1.0), positions)
    q, variance = np.random.default_rng(5).uniform(0.5, 2.0, 12), np.array([1.0, 0.5, np.inf, 2.0, 1.0, 0.1, 1.0])
    residual = np.random.default_rng(6).normal(size=7)
    g = np.asarray(jax.vmap(operator.interpolate)(jnp.eye(12))).T
    seen = np.isfinite(variance)
    system = g[seen] @ np.diag(q) @ g[seen].T + np.diag(variance[seen])
    expected = np.diag(q) @ g[seen].T @ np.linalg.solve(system, residual[seen])
    assert_near(local_score.white_update(operator, jnp.asarray(q), jnp.asarray(variance), residual), expected, 1e-5)
    left = np.asarray(local_score.white_left(operator, jnp.asarray(q), jnp.asarray(variance)))
    assert ((left > 0) & (left <= 1)).all()
    assert (left[np.abs(g[seen]).sum(0) == 0] == 1).all()


# Nonlinear operators


@pytest.mark.parametrize("shock", [0.0, 1.0, 4.0])
def test_a_forecast_that_surprises_is_widened_by_as_much(x64, shock):
    """A forecast of spread 0.5 and a truth further away, seen through arctan: known to the grid of powers of four."""
    rng = np.random.default_rng(0)
    operator = Operator((4000,), FUNCTIONS["arctan"](1.0))
    mean = rng.normal(0.0, 3.0, 4000)
    truth = mean + np.sqrt(0.25 + shock**2) * rng.normal(size=4000)
    observation = Observation(np.arctan(truth) + 0.01 * rng.normal(size=4000), np.full(4000, 1e4))
    found = local_score.surprise(operator, observation, mean, np.full(4000, 0.25))
    if shock:
        assert 0.4 * shock**2 < found < 2.5 * shock**2
    else:
        assert found == 0


@pytest.mark.slow
def test_a_shock_seen_through_arctan_is_followed():
    """Three times the spread, where Gauss-Newton would run away: arctan is flat there."""
    rng = np.random.default_rng(1)
    geometry, operator = Geometry((2, 16, 16), 500.0, 1000.0), Operator((2, 16, 16), FUNCTIONS["arctan"](1.0))
    forecast = 4.0 * rng.normal(size=(2, 16, 16))
    ensemble = (forecast + rng.normal(size=(20, 2, 16, 16))).astype(np.float32)
    truth = forecast + 3.0 * rng.normal(size=forecast.shape)
    values = np.arctan(truth) + 0.01 * rng.normal(size=truth.shape)
    observation = Observation(values.astype(np.float32), np.full(truth.shape, 1e4, np.float32))
    analysed = analysis_of(geometry, operator, cutoff=2000.0)(KEY, ensemble, observation)
    error, before = (np.sqrt(np.mean((np.asarray(x) - truth) ** 2)) for x in (analysed.mean(0), forecast))
    assert error < 0.4 * before
    assert 0.6 < np.sqrt(np.var(analysed, axis=0, ddof=1).mean()) / error < 1.6


@pytest.mark.parametrize(
    ("function", "tolerance", "of_variance"),
    [
        (FUNCTIONS["arctan"](1.0), 0.01, 0.05),
        (PointFunction(lambda x: x**3), 0.01, 0.05),
        (PointFunction(lambda x: x**2), 0.1, 0.9),  # two modes: the grid around one may not see the other
    ],
)
def test_nonlinear_mean_and_spread_are_the_exact_posteriors(x64, function, tolerance, of_variance):
    """One point: mean and variance of prior times true likelihood, integrated on a grid."""
    geometry, operator = Geometry((1,), spacing=1.0), Operator((1,), function)
    members = np.random.default_rng(0).normal(1.0, 0.8, size=(30, 1))
    analysis = analysis_of(geometry, operator, inflation=1.0, full_rank=0.0, iterations=14)
    for value in (0.2, 0.9, 1.4):
        analysed = np.asarray(analysis(KEY, members, Observation(np.array([value]), np.array([16.0]))))
        grid = np.linspace(-6.0, 8.0, 20001)
        cost = (grid - members.mean()) ** 2 / members.var(ddof=1) + 16.0 * (value - function.apply(grid)) ** 2
        density = np.exp(-0.5 * (cost - cost.min()))
        density /= density.sum()
        exact = (density * grid).sum()
        np.testing.assert_allclose(analysed.mean(), exact, atol=tolerance)
        np.testing.assert_allclose(analysed.var(ddof=1), (density * (grid - exact) ** 2).sum(), rtol=of_variance)


def test_no_iterations_are_spent_on_linear_operators():
    ensemble, observation = prior().astype(np.float32), everywhere()
    few, many = (analysis_of(iterations=n)(KEY, ensemble, observation) for n in (1, 9))
    np.testing.assert_array_equal(few, many)


# What the prior's error does


def test_a_shock_that_no_member_knows_is_followed():
    """Truth = forecast mean + white noise 10 times the spread: ensemble-space filters cannot follow that."""
    rng = np.random.default_rng(0)
    geometry, operator = Geometry((2, 16, 16), 500.0, 1000.0), Operator((2, 16, 16), FUNCTIONS["identity"](1.0))
    truth = rng.normal(size=(2, 16, 16)).astype(np.float32)
    ensemble = (truth + 0.3 * rng.normal(size=(20, 2, 16, 16))).astype(np.float32)
    shocked = truth + 3.0 * rng.normal(size=truth.shape)
    values = shocked + rng.normal(size=truth.shape)
    observation = Observation(values.astype(np.float32), np.ones(truth.shape, np.float32))
    error = lambda **given: np.sqrt(
        np.mean(
            (analysis_of(geometry, operator, cutoff=2000.0, **given)(KEY, ensemble, observation).mean(0) - shocked) ** 2
        )
    )
    assert error() < 1.0 < 1.8 < error(full_rank=0.0)


def test_an_increment_can_be_taken_back(x64):
    """Members carry what the white part added with different weights: the next analysis undoes it if need be."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    geometry, operator = Geometry((200,), 1.0), Operator((200,), FUNCTIONS["identity"](1.0))
    ensemble = truth + 0.1 * rng.normal(size=(20, 200))
    analysis = analysis_of(geometry, operator, cutoff=20.0)
    shocked = truth + 4.0 * rng.normal(size=200)
    see = lambda state: Observation(state + rng.normal(size=200), np.ones(200))
    carried = analysis(KEY, ensemble, see(shocked))
    assert np.std(np.asarray(carried).mean(0) - truth) > 3.0
    back = analysis(jax.random.key(1), carried, see(truth))
    assert np.std(np.asarray(back).mean(0) - truth) < 0.7  # observations alone: 1.0


def test_regions_measure_their_own_error(x64):
    rng = np.random.default_rng(0)
    geometry, operator = Geometry((400,), 1.0), Operator((400,), FUNCTIONS["identity"](1.0))
    ensemble = 0.2 * rng.normal(size=(20, 400))
    bad = np.arange(400) >= 200
    truth = np.where(bad, 3.0, 0.2) * rng.normal(size=400)
    values = truth + rng.normal(size=400)
    error = {}
    for regions in (1, 4):
        analysis = analysis_of(geometry, operator, cutoff=10.0, regions=regions)
        analysed = analysis(KEY, ensemble, Observation(values, np.ones(400)))
        error[regions] = np.std((np.asarray(analysed).mean(0) - truth)[20:180])
    assert error[4] < 0.7 * error[1]


# What holds for every analysis


@pytest.mark.parametrize("kernel", [0.5, 1.0])
def test_without_observations_nothing_changes(x64, kernel):
    nothing = Observation(np.full(SHAPE, np.nan), np.zeros(SHAPE))
    ensemble = prior(5, SHAPE)
    analysed = analysis_of(GEOMETRY, ON_GRID, cutoff=1400.0, kernel=kernel, flow_steps=60)(KEY, ensemble, nothing)
    np.testing.assert_allclose(analysed, ensemble, atol=1e-9 if kernel == 1 else 0.02)


def test_members_may_be_permuted(x64, assert_near):
    ensemble, observation = prior(5, SHAPE), everywhere(SHAPE)
    order = np.array([3, 0, 4, 1, 2])
    analysis = analysis_of(GEOMETRY, ON_GRID, cutoff=1400.0, full_rank=0.0)
    assert_near(analysis(KEY, ensemble[order], observation), analysis(KEY, ensemble, observation)[order], 1e-9)


def test_moving_the_domain_moves_the_analysis(x64, assert_near):
    ensemble, observation = prior(5, SHAPE), everywhere(SHAPE)
    analysis = analysis_of(GEOMETRY, ON_GRID, cutoff=1600.0, sample=36)
    roll = lambda a: np.roll(a, (2, 1), (-2, -1))
    moved = analysis(KEY, roll(ensemble), Observation(*map(roll, observation)))
    assert_near(moved, roll(np.asarray(analysis(KEY, ensemble, observation))), 1e-9)


@pytest.mark.parametrize("kernel", [0.5, 1.0])
def test_several_devices_give_what_one_gives(x64, assert_near, cpus, kernel):
    ensemble, observation = prior(4, SHAPE), everywhere(SHAPE)
    given = {"cutoff": 1400.0, "kernel": kernel}
    one = analysis_of(GEOMETRY, ON_GRID, **given)(KEY, ensemble, observation)
    two = analysis_of(GEOMETRY, ON_GRID, member_mesh(4, cpus), **given)(KEY, ensemble, observation)
    assert_near(two, one, 1e-10)


def test_the_default_cutoff_is_the_models():
    ensemble, observation = prior(5, SHAPE), everywhere(SHAPE)
    own = Geometry(SHAPE, 500.0, 1000.0, cutoff=1400.0)
    np.testing.assert_array_equal(
        analysis_of(own, ON_GRID, cutoff=None)(KEY, ensemble, observation),
        analysis_of(GEOMETRY, ON_GRID, cutoff=1400.0)(KEY, ensemble, observation),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cutoff": 0.5}, "cutoff = 0.5 is under the grid spacing; use at least 1"),
        ({"cutoff": None}, "cutoff is not set"),
        ({"regions": 13}, "regions = 13 for 12 points"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        analysis_of(**given)


@pytest.mark.parametrize("given", [{"kernel": 0.0}, {"kernel": 1.5}, {"full_rank": -1.0}, {"inflation": 0.0}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(ValidationError):
        LocalScoreConfig(**given)
