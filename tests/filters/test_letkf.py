"""LETKF: parity with an independent code, the exact Kalman filter, and what no analysis may do."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxda.filters import inflation, letkf
from jaxda.filters.letkf import LETKFConfig
from jaxda.filters.localization import Geometry, make_neighbours, periodic_distance, vertical_taper
from jaxda.observations import FUNCTIONS, Observation, Operator
from jaxda.parallel.mesh import member_mesh

KEY = jax.random.key(0)
SHAPE = (2, 6, 6)
GEOMETRY = Geometry(SHAPE, spacing=500.0, boundary_distance=1000.0)
ON_GRID = Operator(SHAPE, FUNCTIONS["identity"](1.0))


def analysis_of(geometry=GEOMETRY, operator=ON_GRID, mesh=None, states=None, **given):
    config = LETKFConfig(**({"cutoff": 1400.0, "rtps": 0.0} | given))
    return jax.jit(letkf.make_analysis(config, geometry, operator, mesh, states))


@pytest.fixture
def localized(x64):
    """The analysis that most tests call, in double precision and without relaxation."""
    return analysis_of()


def prior(members=5, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(10.0, 2.0, size=(members, *shape))


def everywhere(shape=SHAPE, precision=4.0, seed=1):
    values = np.random.default_rng(seed).normal(10.0, 2.0, size=shape)
    return Observation(values, np.broadcast_to(precision, shape))


def only(where, observation=None):
    """The observation at some sites alone."""
    values, precision = observation or everywhere()
    keep = np.zeros(values.shape, bool)
    keep[where] = True
    return Observation(np.where(keep, values, np.nan), np.where(keep, precision, 0.0))


NOTHING = Observation(np.full(SHAPE, np.nan), np.zeros(SHAPE))


def covariance(ensemble):
    """Sample covariance of the members `(M, ...)`."""
    return np.cov(np.asarray(ensemble).reshape(len(ensemble), -1), rowvar=False)


# Parity


@pytest.mark.parametrize(
    ("name", "operator"), [("letkf_reference", "identity"), ("letkf_reference_partial_arctan", "arctan")]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_agrees_with_an_independent_code(x64, assert_near, reference, name, operator, dtype):
    file = reference(name)
    ensemble = file["ensemble"].astype(dtype)
    shape = ensemble.shape[1:]
    km = 1e-3
    geometry = Geometry(shape, spacing=file["domain_length"] / shape[-1] * km, boundary_distance=1000.0)
    values = np.full((2, shape[1] * shape[2]), np.nan, dtype)
    values[:, file["observed_index"]] = file["observations"]
    observation = Observation(values.reshape(shape), np.full(shape, file["sigma"] ** -2, dtype))
    for rtps, expected in ((0.0, file["analysis"]), (file["rtps"].item(), file["analysis_rtps"])):
        given = {"cutoff": file["cutoff"].item() * km, "rtps": rtps}
        posterior = analysis_of(geometry=geometry, operator=Operator(shape, FUNCTIONS[operator](1.0)), **given)
        result = posterior(KEY, ensemble, observation)
        assert result.dtype == dtype
        assert_near(result, expected, 1e-10 if dtype == np.float64 else 1e-3)


# The Kalman filter


# one set of weights for all columns, and one for each
@pytest.mark.parametrize(("cutoff", "positions"), [(np.inf, np.array([[0.5], [2.0], [4.3]])), (1e9, None)])
def test_without_localization_is_the_kalman_filter(x64, assert_near, cutoff, positions):
    d, members = 5, 12
    operator = Operator((d,), FUNCTIONS["scaled"](0.7), positions)
    rng = np.random.default_rng(2)
    ensemble = rng.normal(size=(members, d)) @ rng.normal(size=(d, d)) + 3.0
    values, sigma = rng.normal(size=operator.values_shape), rng.uniform(0.2, 2.0, size=operator.values_shape)
    posterior = analysis_of(geometry=Geometry((d,), 1.0), operator=operator, cutoff=cutoff)
    result = posterior(KEY, ensemble, Observation(values, sigma**-2))

    H, P, m = np.asarray(jax.jacobian(operator)(np.zeros(d))), covariance(ensemble), ensemble.mean(0)
    K = P @ H.T @ np.linalg.inv(H @ P @ H.T + np.diag(sigma**2))
    assert_near(result.mean(0), m + K @ (values - H @ m), 1e-8)
    assert_near(covariance(result), P - K @ H @ P, 1e-8)


@given(scale=st.floats(1.0, 50.0), seed=st.integers(0, 99))
def test_more_precise_observations_never_increase_the_variance(localized, scale, seed):
    rng = np.random.default_rng(seed)
    ensemble = prior(seed=seed)
    values = everywhere(seed=seed).values
    less = rng.uniform(0.0, 2.0, size=SHAPE) * (rng.uniform(size=SHAPE) < 0.7)
    more = less + (scale - 1.0) * rng.uniform(size=SHAPE) * (rng.uniform(size=SHAPE) < 0.5)
    variance = [np.var(localized(KEY, ensemble, Observation(values, r)), axis=0) for r in (0 * less, less, more)]
    assert np.all(variance[1] <= variance[0] * (1 + 1e-12))
    assert np.all(variance[2] <= variance[1] * (1 + 1e-12))


# What is not observed


@pytest.mark.parametrize("config", [{"rtps": 0.3}, {"vertical_taper": 1.0}, {"cutoff": np.inf, "rtps": 0.3}])
def test_no_observations_leave_the_ensemble_unchanged(x64, assert_near, config):
    posterior = analysis_of(**config)
    values, precision = everywhere()
    for nothing in (NOTHING, Observation(values, 0.0 * precision), Observation(np.nan * values, precision)):
        assert_near(posterior(KEY, prior(), nothing), prior(), 1e-14)


def test_an_observation_acts_inside_the_cutoff_alone(x64):
    posterior = analysis_of(cutoff=1100.0, batch=1)  # a batch shares its iteration count: one column, no round-off
    nothing, one = (posterior(KEY, prior(), seen) for seen in (NOTHING, only((0, 5, 0))))
    moved = np.any(np.asarray(nothing != one), axis=0)
    distance = 500.0 * periodic_distance(np.moveaxis(np.indices((6, 6)), 0, -1) - np.array([5, 0]), (6, 6))
    assert 5 < np.sum(distance < 1100.0) < 36
    np.testing.assert_array_equal(moved, np.stack([distance < 1100.0] * 2))  # the other boundary is 1000 km away


@pytest.mark.parametrize(
    ("config", "reaches"), [({"vertical_taper": 0.0}, False), ({"cutoff": 999.0}, False), ({}, True)]
)
def test_the_other_boundary_is_reached_as_the_vertical_taper_says(x64, config, reaches):
    posterior = analysis_of(batch=1, **config)
    nothing, lower = (posterior(KEY, prior(), seen) for seen in (NOTHING, only(0)))
    assert np.any(nothing[:, 0] != lower[:, 0])
    assert np.any(nothing[:, 1] != lower[:, 1]) == reaches


# Symmetry and independence of the layout


def test_a_permutation_of_the_members_permutes_the_result(localized, assert_near):
    order = [3, 0, 4, 1, 2]
    result = np.asarray(localized(KEY, prior(), everywhere()))
    assert_near(localized(KEY, prior()[order], everywhere()), result[order], 1e-13)


def test_a_shift_of_the_domain_shifts_the_result(localized, assert_near):
    shift = lambda a: np.roll(a, (2, -1), (-2, -1))
    result = localized(KEY, prior(), everywhere())
    shifted = Observation(*(shift(a) for a in everywhere()))
    assert_near(localized(KEY, shift(prior()), shifted), shift(result), 1e-13)


@pytest.mark.parametrize(("batch", "devices"), [(1, None), (5, 2), (1000, 2)])
def test_batches_and_devices_do_not_matter(localized, assert_near, cpus, batch, devices):
    mesh = devices and member_mesh(devices, cpus)
    result = analysis_of(batch=batch, mesh=mesh)(KEY, prior(6), everywhere())
    assert_near(result, localized(KEY, prior(6), everywhere()), 1e-13)


@pytest.mark.parametrize("cutoff", [1400.0, np.inf])
def test_grid_observations_equal_the_same_sites_given_as_positions(x64, assert_near, cutoff):
    sites = np.argwhere(np.random.default_rng(3).uniform(size=SHAPE) < 0.4)
    where = tuple(sites.T)
    values, precision = everywhere(precision=np.random.default_rng(4).uniform(1.0, 4.0, size=SHAPE))
    on_grid = analysis_of(cutoff=cutoff)(KEY, prior(), only(where, Observation(values, precision)))
    at_sites = analysis_of(cutoff=cutoff, operator=Operator(SHAPE, FUNCTIONS["identity"](1.0), sites))
    assert_near(at_sites(KEY, prior(), Observation(values[where], precision[where])), on_grid, 1e-13)


def test_single_precision_agrees_with_double(assert_near):
    inputs = prior(20), everywhere(precision=1e3)
    single = analysis_of(rtps=0.3)(KEY, *jax.tree.map(np.float32, inputs))
    with jax.enable_x64(True):
        double = np.asarray(analysis_of(rtps=0.3)(KEY, *inputs))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert_near(single, double, 1e-3)


# Spread


@pytest.mark.parametrize("cutoff", [1400.0, np.inf])
def test_rotation_keeps_mean_and_covariance(x64, assert_near, cutoff):
    plain = analysis_of(cutoff=cutoff, rtps=0.3)(KEY, prior(), everywhere())
    rotate = analysis_of(cutoff=cutoff, rtps=0.3, rotation=True)
    turned, other = (rotate(key, prior(), everywhere()) for key in jax.random.split(KEY))
    for result in (turned, other):
        assert_near(result.mean(0), plain.mean(0), 1e-12)
        assert_near(covariance(result), covariance(plain), 1e-11)
        assert np.abs(result - plain).max() > 0.1 * np.std(plain)
    assert np.abs(turned - other).max() > 0.1 * np.std(plain)


def test_relaxation_and_inflation_act_on_the_deviations(localized, assert_near):
    plain = np.asarray(localized(KEY, prior(), everywhere()))
    result = analysis_of(rtps=0.4, inflation=1.1)(KEY, prior(), everywhere())
    assert_near(result.mean(0), plain.mean(0), 1e-13)
    spread = 1.1 * (0.6 * plain.std(0) + 0.4 * prior().std(0))
    assert_near(np.std(result, axis=0), spread, 1e-12)


# Inflation of the forecast, and climate states


def truth_far_off(seed=7):
    """An observation whose innovations are larger than the members' spread says."""
    return Observation(10.0 + 12.0 * np.random.default_rng(seed).normal(size=SHAPE), np.full(SHAPE, 0.5))


@pytest.mark.parametrize("cutoff", [1400.0, np.inf])
def test_global_adaptive_inflation_is_the_analysis_of_an_inflated_forecast(x64, assert_near, cutoff):
    observation = truth_far_off()
    ensemble = prior()
    y = (ensemble - ensemble.mean(0)).reshape(len(ensemble), -1)
    d, r = (observation.values - ensemble.mean(0)).ravel(), observation.precision.ravel()
    factor = inflation.covariance_factor(d, y.var(0, ddof=1), r, np.ones_like(r), (y * r) @ y.T, 0.7)
    assert factor > 1.5
    inflated = ensemble.mean(0) + np.sqrt(factor) * (ensemble - ensemble.mean(0))
    expected = analysis_of(cutoff=cutoff, rtps=0.4)(KEY, inflated, observation)
    adaptive = analysis_of(cutoff=cutoff, rtps=0.4, adaptive="global", adaptive_sd=0.7)
    assert_near(adaptive(KEY, ensemble, observation), expected, 1e-12)
    if np.isinf(cutoff):
        regional = analysis_of(cutoff=cutoff, rtps=0.4, adaptive="regional", adaptive_sd=0.7)
        assert_near(regional(KEY, ensemble, observation), expected, 1e-12)


def test_regional_adaptive_inflation_uses_the_neighbours_of_the_analysis(x64, assert_near):
    observation, ensemble = truth_far_off(), prior()
    result = np.asarray(analysis_of(rtps=0.4, adaptive="regional", batch=5)(KEY, ensemble, observation))
    mean, x = ensemble.mean(0), ensemble - ensemble.mean(0)
    d, y, r = (observation.values - mean).ravel(), x.reshape(len(x), -1), observation.precision.ravel()
    neighbours, mix = make_neighbours(GEOMETRY, ON_GRID, 1400.0), vertical_taper(GEOMETRY, 1400.0)
    index, taper = (np.asarray(a) for a in neighbours(np.arange(36)))
    for level, column in ((0, 3), (1, 20)):
        weight = np.zeros(72)
        for other in range(2):
            np.add.at(weight, index[other, column], mix[level, other] * taper[other, column])
        factor = inflation.covariance_factor(d, y.var(0, ddof=1), r, weight, (y * weight * r) @ y.T, 1.0)
        assert factor > 1.1
        inflated = mean + np.sqrt(factor) * x
        expected = analysis_of(rtps=0.4)(KEY, inflated, observation)
        where = (slice(None), level, *np.unravel_index(column, (6, 6)))
        assert_near(result[where], expected[where], 1e-11)


@pytest.mark.parametrize("adaptive", ["global", "regional"])
def test_adaptive_inflation_leaves_what_is_not_observed_alone(x64, assert_near, adaptive):
    posterior = analysis_of(rtps=0.3, adaptive=adaptive)
    assert_near(posterior(KEY, prior(), NOTHING), prior(), 1e-14)
    one = posterior(KEY, prior(), only((0, 5, 0), truth_far_off()))
    if adaptive == "regional":
        assert_near(one[:, 0, 2, 3], prior()[:, 0, 2, 3], 1e-14)


def test_adaptive_inflation_of_a_nonlinear_operator_uses_the_members_values(x64, assert_near):
    operator = Operator(SHAPE, FUNCTIONS["arctan"](0.1))
    ensemble = prior()
    h = np.arctan(0.1 * ensemble).reshape(len(ensemble), -1)
    observation = Observation(np.arctan(0.1 * truth_far_off().values), np.full(SHAPE, 50.0))
    d, r, y = observation.values.ravel() - h.mean(0), np.full(72, 50.0), h - h.mean(0)
    factor = inflation.covariance_factor(d, y.var(0, ddof=1), r, np.ones(72), (y * r) @ y.T, 1.0)
    assert factor > 1.5
    result = analysis_of(operator=operator, cutoff=np.inf, rtps=1.0, adaptive="global")(KEY, ensemble, observation)
    assert_near(result.std(0), np.sqrt(factor) * ensemble.std(0), 1e-12)  # relaxed all the way to the inflated prior


@pytest.mark.parametrize("adaptive", ["global", "regional"])
def test_adaptive_inflation_in_single_precision_and_over_devices(cpus, assert_near, adaptive):
    inputs = jax.tree.map(np.float32, (prior(6), truth_far_off()))
    single = analysis_of(adaptive=adaptive, mesh=member_mesh(2, cpus))(KEY, *inputs)
    assert single.dtype == np.float32
    with jax.enable_x64(True):
        double = np.asarray(analysis_of(adaptive=adaptive)(KEY, prior(6), truth_far_off()))
    assert_near(single, double, 1e-4)


def test_additive_inflation_adds_climate_differences_to_the_analysis(x64, assert_near):
    states = np.random.default_rng(8).normal(size=(6, *SHAPE))
    plain = np.asarray(analysis_of()(KEY, prior(), everywhere()))
    result = analysis_of(additive=0.2, states=states)(KEY, prior(), everywhere())
    assert_near(result.mean(0), plain.mean(0), 1e-13)
    added = inflation.with_climate_differences(jax.random.fold_in(KEY, 1), 0.0 * plain, states, 0.2)
    assert_near(result - plain, added, 1e-11)
    assert np.abs(added).max() > 0.1
    np.testing.assert_array_equal(analysis_of(additive=0.0, states=states)(KEY, prior(), everywhere()), plain)


def test_additive_inflation_without_climate_states_is_refused():
    with pytest.raises(ValueError, match=r"additive = 0\.2 needs two climate states or more"):
        analysis_of(additive=0.2)


# Settings


def test_a_cutoff_under_the_grid_spacing_is_refused():
    with pytest.raises(ValueError, match=r"cutoff = 400 is under the grid spacing; use at least 500"):
        analysis_of(cutoff=400.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cutoff": -1.0}, ["cutoff", "-1", "greater than 0"]),
        ({"rtps": 1.5}, ["rtps", "1.5", "less than or equal to 1"]),
        ({"inflation": 0.0}, ["inflation", "greater than 0"]),
        ({"adaptive": "local"}, ["adaptive", "local", "'regional'"]),
        ({"adaptive_sd": 0.0}, ["adaptive_sd", "greater than 0"]),
        ({"additive": -0.1}, ["additive", "greater than or equal to 0"]),
        ({"radius": 2000.0}, ["radius", "Unexpected keyword"]),
    ],
)
def test_bad_settings_are_refused(given, words):
    with pytest.raises(ValidationError) as refusal:
        LETKFConfig(**given)
    assert all(word in str(refusal.value) for word in words), refusal.value
