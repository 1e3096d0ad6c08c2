"""How a filter that loses the truth is noticed, and what brings it back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import observations
from jaxda.filters import divergence
from jaxda.filters.baselines import Climate
from jaxda.filters.faults import FaultsConfig
from jaxda.observations import Observation, ObservationConfig

KEY = jax.random.key(0)
D = 12


def operator_of(**given):
    return observations.make_operator(ObservationConfig(**{"operator": "identity"} | given), (D,))


def ensemble_of(members=6, seed=0):
    return np.random.default_rng(seed).normal(size=(members, D))


CLIMATE = Climate(jnp.full(D, 1.0), jnp.full(D, 9.0))


def test_chi_square_is_the_mean_over_what_is_observed(x64):
    rng = np.random.default_rng(1)
    ensemble, values, sigma = ensemble_of(), rng.normal(size=D), rng.uniform(0.5, 2.0, D)
    seen = np.arange(D) % 3 > 0
    observation = Observation(np.where(seen, values, np.nan), np.where(seen, sigma**-2, 0.0))
    found = divergence.chi_square(operator_of(), ensemble, observation)
    expected = (values - ensemble.mean(0)) ** 2 / (ensemble.var(0, ddof=1) + sigma**2)
    np.testing.assert_allclose(found, expected[seen].mean(), rtol=1e-12)
    nothing = Observation(np.full(D, np.nan), np.zeros(D))
    assert np.isnan(divergence.chi_square(operator_of(), ensemble, nothing))


def test_chi_square_is_one_where_the_ensemble_is_right_however_errors_go_together(x64):
    """Truth and members of one distribution with correlated errors; 1/M, and the members' noise, make little of it."""
    members, draws, sigma = 80, 400, 0.7
    factor = np.linalg.cholesky(0.9 ** np.abs(np.subtract.outer(np.arange(D), np.arange(D))))
    rng = np.random.default_rng(2)
    states = rng.normal(size=(draws, members + 1, D)) @ factor.T
    values = states[:, 0] + sigma * rng.normal(size=(draws, D))
    chi = jax.vmap(lambda x, y: divergence.chi_square(operator_of(), x, Observation(y, jnp.full(D, sigma**-2))))
    found = np.asarray(chi(states[:, 1:], values))
    assert abs(found.mean() - 1.0) < 4.0 * found.std() / draws**0.5 + 2.0 / members
    overconfident = np.asarray(chi(0.2 * states[:, 1:], values))
    np.testing.assert_allclose(overconfident.mean(), (1.0 + sigma**2) / (0.04 + sigma**2), rtol=0.15)


def told(watch, series, rmse=0.0):
    """Flags of cycles whose innovations are all of these sizes, None for a cycle without."""
    suspect, flags, ensemble = jnp.zeros((), jnp.int32), [], np.array([[0.0] * D] * 2)
    for size in series:
        seen = np.full(D, np.nan if size is None else size)
        watched = watch(suspect, ensemble, Observation(seen, np.where(np.isnan(seen), 0.0, 1.0)), rmse)
        suspect = watched.suspect
        flags.append(int(watched.flagged))
    return flags


def test_suspect_cycles_in_a_row_flag_a_filter():
    config = {"chi_square_limit": 4.0, "patience": 3}
    watch = divergence.make_watch(FaultsConfig(**config), operator_of())
    assert told(watch, [3, 3, 1, 3, 3, 3, 3, 1, 3]) == [0, 0, 0, 0, 0, 1, 1, 0, 0]
    assert told(watch, [3, 3, None, 3, 1.9]) == [0, 0, 0, 1, 0]  # a cycle without observations says nothing
    never = divergence.make_watch(FaultsConfig(**config | {"chi_square_limit": np.inf}), operator_of())
    assert told(never, [1e3] * 5) == [0] * 5


def test_an_error_over_the_climates_is_suspect_too():
    watch = divergence.make_watch(FaultsConfig(rmse_limit=1.5, patience=2), operator_of(), 4.0)
    assert told(watch, [0] * 3, rmse=6.1) == [0, 1, 1]
    assert told(watch, [0] * 3, rmse=5.9) == [0, 0, 0]


def rescue(kind, analysis=lambda key, ensemble, observation: ensemble, **given):
    config = FaultsConfig(recovery=kind)
    return divergence.make_rescue(config, operator_of(**given), CLIMATE, analysis)


def test_inflation_makes_the_spread_that_the_innovations_ask_for(x64):
    ensemble, precision = 0.1 * ensemble_of(), np.full(D, 4.0)
    observation = Observation(ensemble.mean(0) + np.resize([2.0, -1.0], D), precision)
    after = np.asarray(rescue("inflate")(KEY, ensemble, observation))
    np.testing.assert_allclose(after.mean(0), ensemble.mean(0), atol=1e-12)
    # the trace of R^-1 (E[d d^T] - R - H P H^T) is zero then
    np.testing.assert_allclose((precision * after.var(0, ddof=1)).sum(), (4.0 * 2.5 - 1.0) * D, rtol=1e-10)
    ratio = (after - after.mean(0)) / (ensemble - ensemble.mean(0))
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-8)


@pytest.mark.parametrize(("size", "expected"), [(0.0, 1.0), (100.0, None)])
def test_inflation_neither_shrinks_nor_exceeds_the_climate(x64, size, expected):
    ensemble = ensemble_of()
    after = np.asarray(rescue("inflate")(KEY, ensemble, Observation(ensemble.mean(0) + size, np.ones(D))))
    factor = after.var(0, ddof=1).mean() / ensemble.var(0, ddof=1).mean()
    wanted = expected or 9.0 / ensemble.var(0, ddof=1).mean()
    np.testing.assert_allclose(factor, wanted, rtol=1e-10)


def test_recentring_forgets_the_forecast_but_for_its_directions(x64):
    """Precise observations are copied, and where there are none the climate stands."""
    ensemble = 50.0 + 0.01 * ensemble_of()
    seen = np.arange(D) < 8
    observation = Observation(np.where(seen, np.arange(D) - 3.0, np.nan), np.where(seen, 1e6, 0.0))
    after = np.asarray(rescue("recentre")(KEY, ensemble, observation))
    np.testing.assert_allclose(after.mean(0)[seen], np.arange(8) - 3.0, atol=1e-4)
    np.testing.assert_allclose(after.mean(0)[~seen], 1.0, atol=1e-6)
    ratio = (after - after.mean(0)) / (ensemble - ensemble.mean(0))
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)
    assert 0.3 < after.var(0, ddof=1).mean() / (9.0 * 4 / 12) < 3.0  # a third of the points has the climate's variance
    alike = np.broadcast_to(ensemble[0], ensemble.shape)
    assert (np.asarray(rescue("recentre")(KEY, alike, observation)).std(0)[~seen] > 0.5).all()


def test_without_recovery_there_is_none():
    assert rescue("none") is None
