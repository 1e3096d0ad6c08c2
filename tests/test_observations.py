"""Networks, operators and errors: exact interpolation, exact counts, error statistics, derivatives by autodiff."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxda import observations
from jaxda.observations import FUNCTIONS, Observation, ObservationConfig, Operator, PointFunction

SHAPES = pytest.mark.parametrize("shape", [(2, 8, 8), (12,)])
IDENTITY = FUNCTIONS["identity"](1.0)


def network(shape=(2, 8, 8), scale=1.0, **given):
    config = ObservationConfig(**given)
    operator = observations.make_operator(config, shape, scale)
    return operator, observations.make_network(config, operator)


def observed(observation):
    """Where the observation holds a value; its two ways of saying so must agree."""
    seen = np.isfinite(observation.values)
    np.testing.assert_array_equal(seen, np.asarray(observation.precision) > 0)
    return seen


def random_state(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def random_positions(shape, count, seed=0):
    positions = np.random.default_rng(seed).uniform(size=(count, len(shape))) * np.array(shape)
    if len(shape) == 3:
        positions[:, 0] = np.floor(positions[:, 0])
    return positions


# Operators


@SHAPES
def test_every_grid_point_is_measured_as_it_is(shape):
    x = random_state(shape).astype(np.float32)
    operator, _ = network(shape, operator="identity")
    assert operator.values_shape == shape
    np.testing.assert_array_equal(operator(x), x)


@SHAPES
def test_interpolation_is_exact_for_linear_fields(x64, shape):
    positions = random_positions(shape, 50)
    positions[:, -2:] = np.minimum(positions[:, -2:], shape[-1] - 1)  # away from the seam of the periodic domain
    slopes = np.array([5.0, -2.0, 0.7])[-len(shape) :]
    linear = lambda index: 3.0 + (index * slopes).sum(-1)
    field = linear(np.moveaxis(np.indices(shape), 0, -1))
    values = Operator(shape, IDENTITY, positions).interpolate(np.stack([field, 2 * field]))
    np.testing.assert_allclose(values, np.stack([linear(positions), 2 * linear(positions)]), rtol=1e-13)


@SHAPES
def test_interpolation_picks_the_grid_values_at_grid_points(x64, shape):
    sites = np.argwhere(np.ones(shape))
    field = random_state(shape)
    np.testing.assert_array_equal(Operator(shape, IDENTITY, sites).interpolate(field), field.ravel())


def test_interpolation_is_periodic(x64):
    line, plane = random_state((12,)), random_state((2, 8, 8))
    on_line = Operator((12,), IDENTITY, np.array([[11.75], [23.75], [-0.25]])).interpolate(line)
    np.testing.assert_allclose(on_line, 0.25 * line[11] + 0.75 * line[0], rtol=1e-14)
    in_corner = Operator((2, 8, 8), IDENTITY, np.array([[1, 7.5, 7.5]])).interpolate(plane)
    np.testing.assert_allclose(in_corner, plane[1][[7, 7, 0, 0], [7, 0, 7, 0]].mean(), rtol=1e-14)


@SHAPES
@given(seed=st.integers(0, 2**32 - 1))
def test_spread_is_the_adjoint_of_interpolate(x64, shape, seed):
    operator = Operator(shape, IDENTITY, random_positions(shape, 30, seed))
    x, v = random_state(shape, seed), random_state((30,), seed)
    np.testing.assert_allclose(operator.interpolate(x) @ v, (x * operator.spread(v)).sum(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [1.0, 0.003])
def test_each_function_has_its_inverse(x64, name, scale):
    function = FUNCTIONS[name](scale)
    x = np.linspace(-8.0, 8.0, 17)  # arctan(8) is 0.12 from its pole
    np.testing.assert_allclose(function.invert(function.apply(x), 0.1), x, rtol=1e-12, atol=1e-12)


def test_the_functions_are_what_their_names_say(x64):
    x = np.array([-2.0, 0.5])
    for name, expected in {"identity": x, "scaled": 0.3 * x, "arctan": np.arctan(0.3 * x)}.items():
        np.testing.assert_allclose(network((2,), 0.3, operator=name)[0](x), expected, rtol=1e-15)


def test_the_inverse_of_arctan_stays_finite_beyond_its_range(x64):
    beyond = FUNCTIONS["arctan"](2.0).invert(np.array([-3.0, 1.57, 3.0]), 0.05)
    np.testing.assert_allclose(beyond, np.tan(np.pi / 2 - 0.05) / 2.0 * np.array([-1, 1, 1]), rtol=1e-12)


@pytest.mark.parametrize("positions", [None, 20])
def test_a_users_function_replaces_the_configured_one(x64, positions):
    config = ObservationConfig(positions=positions)
    operator = observations.make_operator(config, (2, 8, 8), function=PointFunction(lambda x: jnp.sinh(x) + 1.0))
    x = random_state((2, 8, 8))
    gx = operator.interpolate(x)
    np.testing.assert_allclose(operator(x), np.sinh(gx) + 1.0, rtol=1e-14)
    np.testing.assert_allclose(operator.slope(x), np.cosh(gx), rtol=1e-14)


# Networks


@pytest.mark.parametrize("boundary", ["both", "lower", "upper"])
@pytest.mark.parametrize("spacing", [1, 2, 4])
def test_grid_networks_observe_the_sites_asked(boundary, spacing):
    _, observe = network(boundary=boundary, spacing=spacing)
    expected = np.zeros((2, 8, 8), bool)
    levels = {"both": slice(None), "lower": slice(0, 1), "upper": slice(1, 2)}[boundary]
    expected[levels, ::spacing, ::spacing] = True
    np.testing.assert_array_equal(observed(observe(jax.random.key(0), jnp.ones((2, 8, 8)))), expected)


@pytest.mark.parametrize(
    ("shape", "given", "fraction", "count"),
    [
        ((2, 8, 8), {}, 0.02, 1),
        ((2, 8, 8), {"spacing": 2, "boundary": "upper"}, 0.3, 5),
        ((2, 8, 8), {"positions": 50}, 0.3, 15),
        ((12,), {}, 0.95, 11),
    ],
)
def test_random_networks_have_an_exact_count(shape, given, fraction, count):
    everywhere, some = (network(shape, fraction=part, **given)[1] for part in (1.0, fraction))
    allowed = observed(everywhere(jax.random.key(0), jnp.ones(shape)))
    for key in range(3):
        seen = observed(some(jax.random.key(key), jnp.ones(shape)))
        assert not np.any(seen & ~allowed)
        columns = seen.any(0) if seen.ndim == 3 else seen
        assert columns.sum() == count
        np.testing.assert_array_equal(seen, allowed & columns)  # a column is measured on all observed boundaries


@pytest.mark.parametrize(("boundary", "levels"), [("both", {0, 1}), ("lower", {0}), ("upper", {1})])
def test_positions_lie_anywhere_on_the_boundaries_asked(boundary, levels):
    operator, _ = network(positions=400, boundary=boundary)
    assert set(operator.positions[:, 0]) == levels
    horizontal = operator.positions[:, 1:]
    assert horizontal.min() >= 0.0
    assert horizontal.max() < 8.0
    assert np.histogramdd(horizontal, bins=4, range=[(0, 8)] * 2)[0].min() > 10  # 25 expected in each of 16 boxes


@pytest.mark.parametrize("given", [{"positions": 40}, {"fraction": 0.5}])
def test_another_seed_is_another_network(given):
    sites = [
        observed(observe(jax.random.key(0), jnp.ones((2, 8, 8)))) if operator.positions is None else operator.positions
        for operator, observe in (network(seed=seed, redraw=False, **given) for seed in (0, 0, 1))
    ]
    np.testing.assert_array_equal(sites[0], sites[1])
    assert np.any(sites[0] != sites[2])


@pytest.mark.parametrize(
    ("given", "fixed"),
    [
        ({}, True),
        ({"fraction": 0.5}, False),
        ({"fraction": 0.5, "positions": 40}, False),
        ({"fraction": 0.5, "redraw": False}, True),
    ],
)
def test_a_new_key_brings_new_errors_and_where_asked_new_sites(given, fixed):
    observe = jax.jit(network(**given)[1])
    truth = jnp.ones((2, 8, 8))
    first, again, other = (observe(jax.random.key(seed), truth) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.values, again.values)
    both = observed(first) & observed(other)
    assert both.any()
    assert np.all(np.asarray(first.values)[both] != np.asarray(other.values)[both])
    assert np.array_equal(observed(first), observed(other)) == fixed


@pytest.mark.parametrize("given", [{"sigma": (0.5, 2.0)}, {"sigma": (0.5, 2.0), "positions": 8000}, {"sigma": 0.5}])
def test_errors_have_the_standard_deviation_asked(x64, given):
    shape = (2, 64, 64)
    operator, observe = network(shape, 0.3, operator="arctan", **given)
    truth = random_state(shape)
    values, precision = observe(jax.random.key(0), jnp.asarray(truth))
    level = np.indices(shape)[0] if operator.positions is None else operator.positions[:, 0]
    sigma = np.where(level == 0, *given["sigma"]) if isinstance(given["sigma"], tuple) else np.full(shape, 0.5)
    np.testing.assert_allclose(precision, sigma**-2, rtol=1e-14)
    error = (values - operator(truth)) / sigma
    n = error.size
    assert abs(error.mean()) < 4 / np.sqrt(n)
    assert abs(error.std() - 1.0) < 4 / np.sqrt(2 * n)
    neighbours = (error.ravel()[1:] * error.ravel()[:-1]).mean()
    assert abs(neighbours) < 4 / np.sqrt(n)


def test_cleaned_takes_nan_and_zero_precision_for_not_observed():
    raw = Observation(jnp.array([1.0, jnp.nan, 3.0, jnp.inf, 5.0, 6.0]), jnp.array([4.0, 4.0, 0.0, 4.0, jnp.inf, -1.0]))
    values, precision = observations.cleaned(raw)
    np.testing.assert_array_equal(values, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(precision, [4.0, 0.0, 0.0, 0.0, 0.0, 0.0])


# Screening


def screening(values, limit=20.0, precision=1.0, function=IDENTITY, members=8):
    """Which values are rejected for forecasts N(0, 1)."""
    values = jnp.asarray(values, jnp.float32)
    raw = Observation(values, jnp.broadcast_to(jnp.asarray(precision, jnp.float32), values.shape))
    ensemble = np.random.default_rng(5).normal(size=(members, values.size)).astype(np.float32)
    kept = observations.screened(Operator(values.shape, function), ensemble, raw, limit)
    seen = observed(kept)
    np.testing.assert_array_equal(np.asarray(kept.values)[seen], np.asarray(raw.values)[seen])
    np.testing.assert_array_equal(np.asarray(kept.precision)[seen], np.asarray(raw.precision)[seen])
    return np.asarray(observations.given(raw)) & ~seen


def test_one_bad_value_alone_is_rejected():
    values = np.random.default_rng(6).normal(size=100)
    assert not screening(values).any()
    values[7], values[50] = -80.0, 12.0
    np.testing.assert_array_equal(np.flatnonzero(screening(values)), [7])
    np.testing.assert_array_equal(np.flatnonzero(screening(values, limit=5.0)), [7, 50])
    assert not screening(values, limit=np.inf).any()
    assert not screening(values, precision=1e-4).any()  # as large errors as these are what it says it has


def test_a_shock_that_is_felt_everywhere_rejects_nothing():
    shock = 300.0 * np.random.default_rng(6).normal(size=200)
    assert not screening(shock, limit=5.0).any()
    shock[7] = 1e5
    np.testing.assert_array_equal(np.flatnonzero(screening(shock, limit=5.0)), [7])


def test_the_limit_is_in_standard_deviations_of_the_innovation(x64):
    """One observation at the edge: sqrt(R + var h), the others making the robust scale one."""
    ensemble = np.array([[-1.0], [1.0]]) * np.full(9, 1.5)  # variance 4.5 with one degree of freedom
    operator = Operator((9,), IDENTITY)
    for values, kept in ((0.999, 9), (1.001, 8)):
        seen = np.zeros(9)
        seen[4] = values * 3.0 * np.sqrt(4.5 + 0.25)
        result = observations.screened(operator, ensemble, Observation(seen, np.full(9, 4.0)), 3.0)
        assert observed(result).sum() == kept


@pytest.mark.parametrize(
    ("value", "precision", "rejected"),
    [
        (np.nan, 1.0, False),  # not observed
        (0.0, np.nan, False),
        (0.0, 0.0, False),
        (np.inf, 0.0, False),
        (np.inf, 1.0, True),
        (-np.inf, 1.0, True),
        (0.0, np.inf, True),
        (0.0, -1.0, True),
    ],
)
@pytest.mark.parametrize("limit", [20.0, np.inf])
def test_what_is_not_finite_is_rejected_and_what_is_missing_is_missing(value, precision, rejected, limit):
    values, precisions = np.zeros(5), np.ones(5)
    values[2], precisions[2] = value, precision
    np.testing.assert_array_equal(screening(values, limit, precisions), np.arange(5) == (2 if rejected else -1))


def test_nothing_observed_is_nothing_rejected():
    assert not screening(np.full(6, np.nan)).any()


def test_values_are_rejected_where_the_operator_of_a_member_is_not_finite():
    rejected = screening(np.ones(200), np.inf, function=PointFunction(lambda x: jnp.log(x + 2.5)))
    states = np.random.default_rng(5).normal(size=(8, 200)).astype(np.float32)
    np.testing.assert_array_equal(rejected, (states <= -2.5).any(0))
    assert 0 < rejected.sum() < 100


def test_an_operator_that_fails_at_some_states_leaves_the_others_their_derivatives(x64):
    operator = Operator((4,), PointFunction(jnp.sqrt), np.array([[0.0], [1.0], [2.0], [2.5]]))
    observation = Observation(jnp.full(4, 3.0), jnp.full(4, 2.0))
    x = jnp.array([-1.0, 4.0, 0.0, -8.0])  # NaN; 2 with slope 1/4; 0 with an infinite slope; NaN
    np.testing.assert_allclose(observations.likelihood_score(operator, observation, x), [0, 0.5, 0, 0], rtol=1e-14)
    np.testing.assert_allclose(observations.stiffness(operator, observation, x), [0, 0.125, 0, 0], rtol=1e-14)


@pytest.mark.parametrize("positions", [None, 20])
@pytest.mark.parametrize(("sigma", "dtype"), [(1e-25, "float32"), (1e25, "float32"), (1e-200, "float64")])
def test_errors_whose_precision_is_no_number_are_refused(positions, sigma, dtype):
    config = ObservationConfig(sigma=(1.0, sigma), positions=positions)
    operator = observations.make_operator(config, (2, 8, 8))
    words = re.escape(f"sigma = {sigma:g}: 1/sigma^2 is out of the range of {dtype}; use ")
    with pytest.raises(ValueError, match=words):
        observations.make_network(config, operator, dtype=dtype)


@pytest.mark.parametrize("sigma", [2e-19, 4e18])
def test_the_errors_at_the_edge_have_precisions(sigma):
    _, observe = network((12,), sigma=sigma)
    assert observed(observe(jax.random.key(0), jnp.ones(12))).all()


# Derivatives of the likelihood


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (FUNCTIONS["scaled"](0.8), {"sigma": (0.5, 2.0)}),
        (FUNCTIONS["arctan"](0.8), {"fraction": 0.5}),
        (FUNCTIONS["arctan"](0.8), {"positions": 60, "fraction": 0.7}),
        (PointFunction(jnp.sinh), {"positions": 60}),
    ],
)
def test_likelihood_score_and_stiffness(x64, function, given):
    shape = (2, 4, 4)
    config = ObservationConfig(**given)
    operator = observations.make_operator(config, shape, function=function)
    observe = observations.make_network(config, operator)
    x = jnp.asarray(random_state(shape))
    observation = observations.cleaned(observe(jax.random.key(0), jnp.asarray(random_state(shape, 1))))

    def log_likelihood(x):
        return -0.5 * jnp.sum(observation.precision * (observation.values - operator(x)) ** 2)

    score = jax.jit(lambda x: observations.likelihood_score(operator, observation, x))(x)
    np.testing.assert_allclose(score, jax.jit(jax.grad(log_likelihood))(x), rtol=1e-12, atol=1e-12)
    h = np.asarray(jax.jit(jax.jacobian(operator))(x)).reshape(-1, 32)
    gauss_newton = h.T @ (np.asarray(observation.precision).reshape(-1, 1) * h)
    stiffness = np.diag(observations.stiffness(operator, observation, x).ravel())
    if operator.positions is None:
        np.testing.assert_allclose(stiffness, gauss_newton, rtol=1e-12, atol=1e-12)
    else:
        assert np.linalg.eigvalsh(stiffness - gauss_newton).min() > -1e-12 * stiffness.max()  # Gershgorin
        np.testing.assert_array_equal(stiffness.diagonal() == 0, gauss_newton.diagonal() == 0)


# Refusals


@pytest.mark.parametrize(
    ("shape", "given", "words"),
    [
        ((2, 8, 8), {"spacing": 3}, ["spacing = 3", "8", "use a divisor"]),
        ((2, 8, 8), {"fraction": 0.001}, ["fraction = 0.001", "64", "use at least 0.016"]),
        ((12,), {"fraction": 0.0}, ["fraction = 0", "12", "use at least"]),
        ((2, 8, 8), {"sigma": (1.0, 2.0, 3.0)}, ["sigma", "3 values", "2 boundaries", "give one"]),
        ((12,), {"sigma": (1.0, 2.0)}, ["sigma", "2 values", "give one"]),
        ((12,), {"boundary": "upper"}, ["boundary", "upper", 'use "both"']),
    ],
)
def test_networks_that_do_not_fit_the_state_are_refused(shape, given, words):
    with pytest.raises(ValueError, match=r"use|give") as refusal:
        network(shape, **given)
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("positions", [None, 20])
@pytest.mark.parametrize("function", [lambda x: x[..., :1], jnp.sum, lambda x: x[None]])
def test_a_function_that_does_not_keep_the_shape_is_refused(positions, function):
    with pytest.raises(ValueError, match="must keep the shape"):
        observations.make_operator(ObservationConfig(positions=positions), (2, 8, 8), function=PointFunction(function))


def test_positions_without_a_boundary_are_refused():
    with pytest.raises(ValueError, match=r"positions has shape \(5, 2\), not \(P, 3\)"):
        Operator((2, 8, 8), IDENTITY, np.zeros((5, 2)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sigma": 0.0}, ["sigma", "greater than 0"]),
        ({"sigma": (1.0, -1.0)}, ["sigma", "greater than 0"]),
        ({"fraction": 1.5}, ["fraction", "1.5", "less than or equal to 1"]),
        ({"spacing": 0}, ["spacing", "0", "greater than or equal to 1"]),
        ({"operator": "tan"}, ["operator", "tan", "'arctan'"]),
        ({"sigmas": 1.0}, ["sigmas", "Unexpected keyword"]),
    ],
)
def test_bad_settings_are_refused(given, words):
    with pytest.raises(ValidationError) as refusal:
        ObservationConfig(**given)
    assert all(word in str(refusal.value) for word in words), refusal.value
