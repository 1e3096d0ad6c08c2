"""The test of flat rank histograms: against scipy's, and its size and power where points are correlated."""

import jax
import numpy as np
import pytest
from scipy import stats

from jaxda import diagnostics

COUNTS = np.array([130.0, 90.0, 95.0, 88.0, 97.0, 92.0, 108.0])


def test_chi_square_is_scipys(x64):
    found = jax.jit(diagnostics.flatness)(COUNTS)
    expected = stats.chisquare(COUNTS)
    assert float(found.chi_square) == pytest.approx(expected.statistic, rel=1e-12)
    assert float(found.p_value) == pytest.approx(expected.pvalue, rel=1e-9)
    assert float(found.slope_p) == pytest.approx(2 * stats.norm.sf(abs(float(found.slope))), rel=1e-9)


@pytest.mark.parametrize("number", [3, 4, 7, 21])
def test_parts_of_one_kind_are_the_whole(x64, number):
    """Counts that change linearly, or quadratically around the middle, have no other part."""
    place = np.arange(number) - (number - 1) / 2
    linear = diagnostics.flatness(1000.0 + 3.0 * place)
    assert float(linear.slope) > 0
    np.testing.assert_allclose(linear.slope**2, linear.chi_square, rtol=1e-9)
    np.testing.assert_allclose(linear.convexity, 0.0, atol=1e-9)
    for sign in (1.0, -1.0):
        curved = diagnostics.flatness(1000.0 + sign * (place**2 - (place**2).mean()))
        np.testing.assert_allclose(curved.convexity**2, curved.chi_square, rtol=1e-9)
        np.testing.assert_allclose(curved.slope, 0.0, atol=1e-9)
        assert float(curved.convexity) * sign > 0


def test_the_contrasts_of_jolliffe_and_primo(x64):
    """For three ranks the orthonormal vectors are (-1, 0, 1)/sqrt(2) and (1, -2, 1)/sqrt(6)."""
    found = diagnostics.flatness(np.array([40.0, 10.0, 25.0]))
    assert float(found.slope) == pytest.approx((25 - 40) / (2 * 25) ** 0.5)
    assert float(found.convexity) == pytest.approx((40 - 2 * 10 + 25) / (6 * 25) ** 0.5)


def correlated(rng, members, cycles, blocks, bias=0.0, spread=1.0):
    """Counts `(cycles, M + 1)` of states whose points come in blocks of ten that are alike."""
    states = rng.normal(size=(members + 1, cycles, blocks))
    rank = (spread * states[1:] < states[0] + bias).sum(0)
    return 10 * np.stack([np.bincount(own, minlength=members + 1) for own in rank])


def test_the_design_effect_of_blocks_is_their_size(x64):
    counts = correlated(np.random.default_rng(0), 9, 400, 100)
    assert float(diagnostics.design_effect(counts)) == pytest.approx(10.0, rel=0.1)
    independent = np.random.default_rng(0).multinomial(1000, np.full(10, 0.1), size=400)
    assert float(diagnostics.design_effect(independent)) == pytest.approx(1.0, abs=0.1)


def test_the_test_has_its_size_where_points_are_correlated(x64):
    """At 5 % it rejects 5 % of reliable ensembles; without the design effect nearly all."""
    rng = np.random.default_rng(1)
    counts = np.stack([correlated(rng, 9, 30, 50) for _ in range(400)])
    of_one = lambda own: diagnostics.flatness(own.sum(0), diagnostics.design_effect(own)).p_value
    corrected = jax.vmap(of_one)(counts)
    naive = jax.vmap(diagnostics.flatness)(counts.sum(1)).p_value
    assert 0.02 < (corrected < 0.05).mean() < 0.10
    assert (naive < 0.05).mean() > 0.8


@pytest.mark.parametrize(
    ("wrong", "part", "sign"),
    [({"bias": 0.3}, "slope", 1), ({"spread": 0.7}, "convexity", 1), ({"spread": 1.5}, "convexity", -1)],
)
def test_each_part_tells_its_own_fault(x64, wrong, part, sign):
    counts = correlated(np.random.default_rng(2), 9, 60, 100, **wrong)
    found = diagnostics.flatness(counts.sum(0), diagnostics.design_effect(counts))
    other = "slope" if part == "convexity" else "convexity"
    assert sign * float(getattr(found, part)) > 5
    assert float(getattr(found, f"{part}_p")) < 1e-6
    assert abs(float(getattr(found, other))) < abs(float(getattr(found, part)))
