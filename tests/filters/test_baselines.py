"""The trivial analyses, against what they stand for: the data, optimal interpolation, the most probable state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jaxda.filters import baselines
from jaxda.filters.baselines import Climate
from jaxda.observations import FUNCTIONS, Observation, Operator, PointFunction

KEY = jax.random.key(0)
D = 6
MANY = 4000  # members, so that variances are known to 2 %
SEEN = np.array([True, True, False, True, False, True])
TRUTH = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.2])
CLIMATE = Climate(np.linspace(-1.0, 1.0, D), np.linspace(4.0, 9.0, D))
OPERATORS = [("identity", 1.0), ("scaled", 0.3), ("arctan", 0.3)]


def ensemble(members=8):
    return np.random.default_rng(0).normal(50.0, 1.0, size=(members, D))  # far off: no analysis here may use it


def observed(operator, sigma):
    return Observation(np.where(SEEN, operator(TRUTH), np.nan), np.where(SEEN, sigma**-2.0, 0.0))


def test_a_free_run_is_its_forecast():
    members = ensemble()
    assert baselines.make_free_run()(KEY, members, None) is members


# Observations only


@pytest.mark.parametrize(("name", "scale"), OPERATORS)
def test_observations_are_copied_and_the_climate_fills_the_rest(x64, assert_near, name, scale):
    operator = Operator((D,), FUNCTIONS[name](scale))
    analysis = jax.jit(baselines.make_observations_only(operator, CLIMATE))
    result = analysis(KEY, ensemble(MANY), observed(operator, sigma := 0.02))
    assert_near(result.mean(0), np.where(SEEN, TRUTH, CLIMATE.mean), 1e-12)
    slope = np.asarray(operator.slope(TRUTH))
    np.testing.assert_allclose(result.var(0, ddof=1), np.where(SEEN, (sigma / slope) ** 2, CLIMATE.variance), rtol=0.1)


@pytest.mark.parametrize("members", [2, 3, 20])
def test_the_spread_of_few_members_is_the_error_too(x64, members):
    """With M - 1 degrees of freedom, as all scores of spread."""
    operator, sigma = Operator((D,), FUNCTIONS["scaled"](0.3)), 0.2
    analysis = baselines.make_observations_only(operator, CLIMATE)
    draw = jax.jit(
        jax.vmap(lambda key: analysis(key, jnp.zeros((members, D)), observed(operator, sigma)).var(0, ddof=1))
    )
    variance = np.asarray(draw(jax.random.split(KEY, 4000))).mean(0)
    np.testing.assert_allclose(variance, np.where(SEEN, (sigma / 0.3) ** 2, CLIMATE.variance), rtol=0.12)


def test_arctan_values_beyond_its_range_are_copied_from_its_edge(x64, assert_near):
    operator = Operator((D,), FUNCTIONS["arctan"](1.0))
    values, sigma = np.array([3.0, 1.5708, 1.5, 0.0, -1.5, -9.0]), 0.1
    analysis = baselines.make_observations_only(operator, CLIMATE)
    result = np.asarray(analysis(KEY, ensemble(MANY), Observation(values, np.full(D, sigma**-2))))
    edge = np.tan(np.pi / 2 - sigma)  # about 10: further out, the errors decide
    assert_near(result.mean(0), [edge, edge, edge, 0.0, -edge, -edge], 1e-12)
    at_the_climates = result.var(0, ddof=1) / CLIMATE.variance
    np.testing.assert_allclose(np.delete(at_the_climates, 3), 1.0, rtol=0.1)  # where arctan is flat, no wider than this


def test_sites_given_as_positions_are_copied_too(x64, assert_near):
    operator = Operator((D,), FUNCTIONS["scaled"](0.3), np.flatnonzero(SEEN)[:, None])
    observation = Observation(0.3 * TRUTH[SEEN], np.full(SEEN.sum(), 4.0))
    result = baselines.make_observations_only(operator, CLIMATE)(KEY, ensemble(), observation)
    assert_near(result.mean(0), np.where(SEEN, TRUTH, CLIMATE.mean), 1e-12)


def test_positions_between_points_are_averaged_by_their_weights(x64, assert_near):
    operator = Operator((D,), FUNCTIONS["identity"](1.0), np.array([[1.25], [1.5], [4.9]]))
    result = baselines.make_observations_only(operator, CLIMATE)(
        KEY, ensemble(), Observation(np.array([2.0, 4.0, -1.0]), np.array([1.0, 1.0, 0.0]))
    )
    expected = CLIMATE.mean.copy()
    expected[1] = (0.75 * 2.0 + 0.5 * 4.0) / 1.25
    expected[2] = (0.25 * 2.0 + 0.5 * 4.0) / 0.75
    assert_near(result.mean(0), expected, 1e-12)


def test_an_operator_without_inverse_is_refused():
    operator = Operator((D,), PointFunction(jnp.square))
    with pytest.raises(ValueError, match=r"observations-only needs the inverse .* give PointFunction.invert"):
        baselines.make_observations_only(operator, CLIMATE)


# Climatology


@pytest.mark.parametrize(("name", "scale"), OPERATORS[:2])
def test_climatology_is_optimal_interpolation(x64, assert_near, name, scale):
    operator, sigma = Operator((D,), FUNCTIONS[name](scale)), 0.8
    observation = observed(operator, sigma)
    result = jax.jit(baselines.make_climatology(operator, CLIMATE))(KEY, ensemble(MANY), observation)
    m, v = CLIMATE.mean, CLIMATE.variance
    gain = np.where(SEEN, v / (v + (sigma / scale) ** 2), 0.0)
    assert_near(result.mean(0), m + gain * (TRUTH - m), 1e-12)
    np.testing.assert_allclose(result.var(0, ddof=1), (1.0 - gain) * v, rtol=0.1)


def most_probable(mean, variance, y, scale, sigma):
    """Minimum of the 1-D cost, by search from a scan of the whole range."""
    cost = lambda x: (x - mean) ** 2 / variance + ((y - np.arctan(scale * x)) / sigma) ** 2
    grid = mean + np.sqrt(variance) * np.linspace(-8.0, 8.0, 4001)
    best, width = grid[cost(grid).argmin()], grid[1] - grid[0]
    return minimize_scalar(cost, bounds=(best - width, best + width), method="bounded", options={"xatol": 1e-10}).x


@pytest.mark.parametrize("sigma", [0.3, 0.05, 0.01])
def test_climatology_of_arctan_data_is_the_most_probable_state(x64, sigma):
    operator = Operator((D,), FUNCTIONS["arctan"](0.3))
    result = jax.jit(baselines.make_climatology(operator, CLIMATE))(KEY, ensemble(), observed(operator, sigma))
    expected = [
        most_probable(mean, variance, np.arctan(0.3 * x), 0.3, sigma) if seen else mean
        for mean, variance, x, seen in zip(CLIMATE.mean, CLIMATE.variance, TRUTH, SEEN, strict=True)
    ]
    np.testing.assert_allclose(result.mean(0), expected, rtol=0, atol=1e-3)


def climatology_of(values, climate, scale, sigma):
    operator = Operator((D,), FUNCTIONS["arctan"](scale))
    return baselines.make_climatology(operator, climate)(KEY, ensemble(), Observation(values, np.full(D, sigma**-2.0)))


def test_climatology_of_arctan_data_holds_at_the_turbulences_amplitude(x64):
    """sigma = 0.01 as published, a climate of 7 K whose mean may be as far from the truth as three times that."""
    mean, truth = np.array([0.0, 0.0, 15.0, -15.0, 15.0, 10.0]), np.array([1.0, 20.0, 0.0, 3.0, -5.0, 12.0])
    climate = Climate(mean, np.full(D, 49.0))
    result = climatology_of(np.arctan(truth), climate, 1.0, 0.01)
    expected = [most_probable(m, 49.0, np.arctan(x), 1.0, 0.01) for m, x in zip(mean, truth, strict=True)]
    np.testing.assert_allclose(result.mean(0), expected, rtol=0.02, atol=0.1)


# All of them


@pytest.mark.parametrize("make", [baselines.make_observations_only, baselines.make_climatology])
def test_only_seen_values_count(x64, make):
    analysis = jax.jit(make(Operator((D,), FUNCTIONS["identity"](1.0)), CLIMATE))
    values = np.random.default_rng(0).normal(size=D)
    hidden = [
        Observation(np.where(SEEN, values, np.nan), np.ones(D)),
        Observation(np.where(SEEN, values, 99.0), np.where(SEEN, 1.0, 0.0)),
    ]
    first, second = (np.asarray(analysis(KEY, ensemble(), observation)) for observation in hidden)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.mean(0)[~SEEN], CLIMATE.mean[~SEEN], atol=1e-12)


@pytest.mark.parametrize("make", [baselines.make_observations_only, baselines.make_climatology])
def test_single_precision_is_kept(make):
    operator = Operator((D,), FUNCTIONS["arctan"](0.3))
    climate = Climate(*(jnp.asarray(a, jnp.float32) for a in CLIMATE[:2]))
    observation = Observation(*(jnp.asarray(a, jnp.float32) for a in observed(operator, 0.1)))
    result = jax.jit(make(operator, climate))(KEY, ensemble().astype(np.float32), observation)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
