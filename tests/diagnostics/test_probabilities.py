"""Scores of all members: against properscoring and scipy, closed forms, and what a reliable ensemble must show."""

import jax
import jax.numpy as jnp
import numpy as np
import properscoring
import pytest
from scipy import stats
from scipy.stats import norm

from jaxda import diagnostics

SHAPES = pytest.mark.parametrize("shape", [(7,), (2, 4, 4)])


# The fair CRPS


@SHAPES
@pytest.mark.parametrize("members", [2, 3, 20])
def test_crps_is_the_double_sum(x64, shape, members):
    ensemble = np.random.default_rng(2).normal(40.0, 3.0, size=(members, *shape))
    ensemble[1] = ensemble[0]  # a tie
    truth = np.random.default_rng(3).normal(41.0, 1.0, size=shape)
    distance = np.abs(ensemble[:, None] - ensemble[None]).sum((0, 1)) / (2 * members * (members - 1))
    expected = np.mean(np.abs(ensemble - truth).mean(0) - distance)
    np.testing.assert_allclose(diagnostics.crps(jnp.asarray(ensemble), truth), expected, rtol=1e-12)


def test_crps_of_equal_members_is_their_absolute_error():
    truth = np.arange(8, dtype=np.float32)
    assert float(diagnostics.crps(jnp.broadcast_to(truth + 3.0, (4, 8)), truth)) == 3.0


@pytest.mark.parametrize("members", [2, 3, 10, 50])
def test_crps_of_gaussian_members_is_the_closed_form_at_any_ensemble_size(x64, members):
    """Gneiting & Raftery (2007), eq. 21; without the fair denominator two members would be sd / (2 sqrt(pi)) worse."""
    points, mean, sd, truth = 200_000, 1.0, 2.0, 2.5
    z = (truth - mean) / sd
    expected = sd * (z * (2.0 * norm.cdf(z) - 1.0) + 2.0 * norm.pdf(z) - np.pi**-0.5)
    ensemble = mean + sd * jax.random.normal(jax.random.key(members), (members, points))
    found = diagnostics.crps(ensemble, jnp.full(points, truth))
    one = jax.vmap(lambda x: diagnostics.crps(x[:, None], jnp.array([truth])))(ensemble.T[:5000])
    assert abs(float(found) - expected) < 4.0 * float(one.std()) / points**0.5


@pytest.mark.parametrize("members", [2, 20])
def test_crps_of_members_placed_around_their_mean_is_too_small(x64, members):
    """What the docstring warns of; error of the mean and spread are one, for many members it is 1/sqrt(pi)."""
    points = 200_000
    states = jax.random.normal(jax.random.key(0), (members + 1, points))
    found = float(diagnostics.crps(states[1:] - states[1:].mean(0), states[0]))
    expected = (np.sqrt(2.0 * (2.0 - 1.0 / members)) - 1.0) / np.sqrt(np.pi)
    assert abs(found - expected) < 0.006
    assert expected < (0.75 if members == 2 else 0.98) / np.sqrt(np.pi)


@SHAPES
def test_crps_is_that_of_properscoring_made_fair(x64, shape):
    """properscoring's has M^2 in place of M (M - 1): its mean distance of pairs is (M - 1)/M of the fair one."""
    rng = np.random.default_rng(5)
    members, truth = rng.gamma(2.0, size=(6, *shape)), rng.gamma(2.0, size=shape)
    theirs = properscoring.crps_ensemble(truth, members, axis=0).mean()
    pairs = float(diagnostics.pair_distance(jnp.asarray(members)).mean())
    assert float(diagnostics.crps(jnp.asarray(members), truth)) == pytest.approx(theirs - pairs / (2 * 6), rel=1e-12)


def test_crps_is_near_properscorings_of_the_gaussian_it_is_drawn_from(x64):
    members = 1.0 + 2.0 * jax.random.normal(jax.random.key(0), (400, 2000))
    truth = np.linspace(-4.0, 6.0, 2000)
    assert float(diagnostics.crps(members, truth)) == pytest.approx(
        properscoring.crps_gaussian(truth, 1.0, 2.0).mean(), rel=2e-3
    )


# Ranks and coverage


def test_ranks_count_the_members_below():
    members = np.random.default_rng(0).normal(size=(9, 2, 5, 5))
    truth = np.random.default_rng(1).normal(size=(2, 5, 5))
    found = diagnostics.ranks(jax.random.key(0), members, truth)
    np.testing.assert_array_equal(found, (members < truth).sum(0))
    counts = diagnostics.rank_counts(found, 9)
    np.testing.assert_array_equal(counts, np.bincount(np.asarray(found).ravel(), minlength=10))


def test_ties_are_broken_evenly():
    """Three of five members are the truth, one is below: ranks 1 to 4, each as often as the others."""
    points = 40_000
    members = np.broadcast_to(np.array([0.0, 1.0, 1.0, 1.0, 2.0])[:, None], (5, points))
    found = diagnostics.ranks(jax.random.key(0), members, np.ones(points))
    counts = np.asarray(diagnostics.rank_counts(found, 5))
    assert counts[[0, 5]].sum() == 0
    assert stats.chisquare(counts[1:5]).pvalue > 1e-3
    other = diagnostics.ranks(jax.random.key(1), members, np.ones(points))
    assert (np.asarray(found) != other).any()


@pytest.mark.parametrize("members", [2, 5, 19, 20])
def test_coverage_of_a_reliable_ensemble_is_nominal(x64, members):
    points = 20_000
    states = np.random.default_rng(members).gamma(2.0, size=(members + 1, points))
    counts = diagnostics.rank_counts(diagnostics.ranks(jax.random.key(0), states[1:], states[0]), members)
    nominal = diagnostics.nominal_coverage(members)
    error = (nominal * (1 - nominal) / points) ** 0.5
    assert abs(float(diagnostics.coverage(counts)) - nominal) < 4 * error
    # the truth between the k + 1st and the last but k member, as order statistics say
    ordered = np.sort(states[1:], axis=0)
    left = round((1 - nominal) * (members + 1) / 2) - 1
    inside = ((ordered[left] < states[0]) & (states[0] < ordered[members - 1 - left])).mean()
    assert float(diagnostics.coverage(counts)) == pytest.approx(float(inside), rel=1e-12)


@pytest.mark.parametrize(
    ("members", "level", "nominal"), [(20, 0.9, 19 / 21), (20, 0.5, 11 / 21), (2, 0.9, 1 / 3), (99, 0.9, 0.9)]
)
def test_the_interval_is_the_nearest_that_members_can_tell(members, level, nominal):
    assert diagnostics.nominal_coverage(members, level) == pytest.approx(nominal)


# The energy distance


def test_energy_distance_of_numbers_is_scipys(x64):
    """Whose square is that of the distribution functions of the samples: pairs of a member with itself are in it."""
    x, y = np.random.default_rng(0).normal(size=30), np.random.default_rng(1).gamma(2.0, size=40)
    itself = sum(float(diagnostics.pair_distance(jnp.asarray(a))) / len(a) for a in (x, y))
    expected = stats.energy_distance(x, y) ** 2 - itself
    assert float(diagnostics.energy_distance(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_samples_of_one_law_is_zero_on_average(x64):
    draw = lambda key: jax.random.normal(key, (2, 12, 3, 2))
    found = jax.lax.map(lambda key: diagnostics.energy_distance(*draw(key)), jax.random.split(jax.random.key(0), 400))
    assert abs(float(found.mean())) < 4 * float(found.std()) / 20
    assert (found < 0).any()
