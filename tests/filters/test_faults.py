"""Members that are not finite: drawn anew with the survivors' statistics, up to a limit, whatever the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.filters.faults import FaultsConfig, make_mend, redrawn
from jaxda.parallel.mesh import jitted, member_mesh

KEY = jax.random.key(3)
ENSEMBLE = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32) * [[1.0], [5.0]] + 7.0


def broken(*members, value=np.nan):
    ensemble = np.array(ENSEMBLE, np.float32)
    for member in members:
        ensemble[member, 1, 2] = value
    return ensemble


def test_drawn_members_keep_mean_and_covariance_in_expectation(x64):
    """Of all members, and of the drawn ones by themselves, over many draws."""
    members, draws = 5, 40_000
    ensemble = np.random.default_rng(1).normal(size=(members, 3)) @ np.array([[1.0, 2.0, 0.0], [0, 3, 1], [0, 0, 0.5]])
    sound = np.array([True, False, True, False, True])
    survivors = ensemble[sound]
    mean, covariance = survivors.mean(0), np.cov(survivors.T)
    draw = jax.jit(jax.vmap(lambda key: redrawn(key, jnp.where(sound[:, None], ensemble, jnp.nan), sound)))
    drawn = np.asarray(draw(jax.random.split(KEY, draws)))
    np.testing.assert_array_equal(drawn[:, sound], np.broadcast_to(survivors, (draws, 3, 3)))
    sd = np.sqrt(np.diag(covariance))
    scatter = 5.0 / np.sqrt(draws)
    assert (np.abs(drawn[:, 1].mean(0) - mean) < 1.2 * scatter * sd).all()
    assert (np.abs(drawn.mean(1).mean(0) - mean) < scatter * sd).all()
    around = drawn - drawn.mean(1, keepdims=True)
    of_all = np.einsum("kmi,kmj->kij", around, around) / (members - 1)
    assert (np.abs(of_all.mean(0) - covariance) < 2.0 * scatter * np.outer(sd, sd)).all()
    alone = np.cov(drawn[:, 1].T)
    assert (np.abs(alone - members / (members - 1) * covariance) < 2.0 * scatter * np.outer(sd, sd)).all()


def test_drawn_members_lie_in_the_span_of_the_others_and_differ(x64):
    ensemble, sound = broken(1, 4).astype(float).reshape(6, -1), np.array([True, False, True, True, False, True])
    after = np.asarray(redrawn(KEY, ensemble, sound))
    around = after - after[sound].mean(0)
    basis = np.linalg.svd(around[sound], full_matrices=False)[2][:3]
    np.testing.assert_allclose(around[~sound] @ basis.T @ basis, around[~sound], atol=1e-12)
    assert np.abs(after[1] - after[4]).max() > 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_members_that_are_not_finite_are_replaced_and_counted(value):
    mend = jax.jit(make_mend(FaultsConfig(), 6))
    before = broken(0, 3, value=value)
    after, replaced, lost = mend(KEY, before)
    assert (replaced, lost) == (2, 0)
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(np.asarray(after)[[1, 2, 4, 5]], before[[1, 2, 4, 5]])
    again, other = mend(KEY, before)[0], mend(jax.random.key(4), before)[0]
    np.testing.assert_array_equal(again, after)
    assert (np.asarray(other)[0] != np.asarray(after)[0]).any()


def test_an_ensemble_without_faults_stays_as_it_is():
    after, replaced, lost = jax.jit(make_mend(FaultsConfig(), 6))(KEY, broken())
    np.testing.assert_array_equal(after, broken())
    assert (replaced, lost) == (0, 0)


@pytest.mark.parametrize(("limit", "bad", "most"), [(0.5, 4, 3), (0.0, 1, 0), (1.0, 5, 4), (0.34, 3, 2), (0.3, 2, 1)])
def test_over_the_limit_nothing_is_drawn(limit, bad, most):
    """Nor where fewer than two are left to draw from."""
    mend = jax.jit(make_mend(FaultsConfig(replaced_limit=limit), 6))
    after, replaced, lost = mend(KEY, broken(*range(bad)))
    assert (replaced, lost) == (0, bad)
    np.testing.assert_array_equal(after, broken(*range(bad)))
    after, replaced, lost = mend(KEY, broken(*range(most)))
    assert (replaced, lost) == (most, 0)
    assert np.isfinite(after).all()


def test_two_devices_draw_what_one_does(cpus):
    mesh = member_mesh(6, cpus)
    one, two = (jitted(make_mend(FaultsConfig(), 6, m), m)(KEY, broken(1, 5)) for m in (None, mesh))
    jax.tree.map(np.testing.assert_array_equal, two, one)
