"""Leave-one-out scores against refitting without the observation; lambda and q found where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.filters import innovations


def test_leaving_one_out_is_refitting_without_it(x64, assert_near):
    rng = np.random.default_rng(0)
    members, count, own = 5, 12, 3
    y = rng.normal(size=(count, members))
    d, v, taper = rng.normal(size=count), rng.uniform(0.5, 2.0, count), rng.uniform(0.1, 1.0, count)
    taper[own] = 1.0
    weight = taper / v
    gram, projected = (y * weight[:, None]).T @ y, (y * weight[:, None]).T @ d
    scores = innovations.leave_one_out(gram, projected, y[own], d[own], v[own])
    rest = np.arange(count) != own
    expected = []
    for inflation in innovations.INFLATIONS:
        precision = np.eye(members) + inflation * (y[rest] * weight[rest, None]).T @ y[rest]
        mean = inflation * y[own] @ np.linalg.solve(precision, (y[rest] * weight[rest, None]).T @ d[rest])
        variance = v[own] + inflation * y[own] @ np.linalg.solve(precision, y[own])
        expected.append((d[own] - mean) ** 2 / variance + np.log(variance))
    assert_near(scores, np.array(expected), 1e-10)


def test_nothing_observed_scores_nothing_and_changes_nothing(x64):
    scores = innovations.leave_one_out(jnp.zeros((4, 4)), jnp.zeros(4), jnp.ones(4), jnp.zeros(()), jnp.inf)
    np.testing.assert_array_equal(scores, 0.0)
    q = innovations.candidates(jnp.zeros(3), jnp.full(3, jnp.inf), jnp.ones(3))
    np.testing.assert_array_equal(q, 0.0)
    assert innovations.full_rank(jnp.zeros((len(q), len(innovations.INFLATIONS))), q, 0.4, 1e-3) == 0
    scores = jnp.zeros((len(innovations.SHARPNESSES), len(innovations.INFLATIONS)))
    inflation, sharpness = innovations.reach(scores, 0.4)
    np.testing.assert_allclose(inflation, 1.0, rtol=1e-12)
    np.testing.assert_allclose(sharpness, np.exp(np.log(innovations.SHARPNESSES).mean()), rtol=1e-12)


@pytest.mark.parametrize(("inflation", "full_rank"), [(1.0, 0.0), (3.0, 0.0), (1.0, 4.0), (2.0, 1.0)])
def test_finds_what_the_innovations_were_drawn_with(x64, inflation, full_rank):
    """Many places, each with its own ensemble and 30 observations of unit error."""
    rng = np.random.default_rng(1)
    places, members, count = 400, 20, 30
    y = rng.normal(size=(places, count, members)) * 0.3
    w = np.sqrt(inflation) * rng.normal(size=(places, members))
    d = np.einsum("pkm,pm->pk", y, w) + np.sqrt(1.0 + full_rank) * rng.normal(size=(places, count))
    q = innovations.candidates(jnp.asarray(d), jnp.ones_like(d), jnp.asarray((y**2).sum(-1)))

    def score(q):
        """The same at any distance: the tapers' power does not matter."""
        gram = np.einsum("pkm,pkn->pmn", y, y) / (1.0 + q)
        projected = np.einsum("pkm,pk->pm", y, d) / (1.0 + q)
        variance = jnp.full(places, 1.0 + q)
        return innovations.leave_one_out(gram, projected, y[:, 0], d[:, 0], variance).sum(-1)

    found = innovations.full_rank(jax.lax.map(score, q[:, 0]), q, 0.4, 1e-3)[0]
    assert abs(found - full_rank) < 0.15 + 0.25 * full_rank
    factor = innovations.reach(jnp.stack([score(found)] * len(innovations.SHARPNESSES)), 0.4)[0]
    assert abs(np.log(factor / inflation)) < 0.35


@pytest.mark.parametrize(("reach", "low", "high"), [(0.4, 1.9, 2.26), (30.0, 0.99, 1.3)])
def test_the_tapers_power_is_larger_where_the_ensemble_lies_about_distance(x64, reach, low, high):
    """Members of scale `reach`, errors of scale 0.4, in units of the taper's width: true to far away or not."""
    rng = np.random.default_rng(2)
    places, members, count = 400, 20, 30
    x = np.concatenate([np.zeros((places, 1)), rng.uniform(-1.0, 1.0, (places, count - 1))], 1)

    def fields(number):
        """Smooth random fields, the members' and the error's alike but that the error's far part is its own."""
        waves = rng.normal(size=(places, 6, number)) / np.sqrt(6)
        phases = rng.uniform(0, 2 * np.pi, (places, 6, number))
        return lambda x: np.einsum(
            "pwm,pkwm->pkm", waves, np.sqrt(2) * np.cos(3.0 * x[:, :, None, None] + phases[:, None])
        )

    near = fields(members)(x) / np.sqrt(members - 1)
    w = rng.normal(size=(places, members))
    trust = np.exp(-0.5 * (x / reach) ** 2)
    error = trust * np.einsum("pkm,pm->pk", near, w) + np.sqrt(1 - trust**2) * fields(1)(x)[..., 0]
    d, taper = error + 0.3 * rng.normal(size=x.shape), np.exp(-(x**2))

    def score(power):
        weight = taper**power / 0.09
        gram = np.einsum("pkm,pk,pkn->pmn", near, weight, near)
        projected = np.einsum("pkm,pk->pm", near, weight * d)
        return innovations.leave_one_out(gram, projected, near[:, 0], d[:, 0], jnp.full(places, 0.09)).sum(-1)

    sharpness = innovations.reach(jnp.stack([score(power) for power in innovations.SHARPNESSES]), 0.4)[1]
    assert low < sharpness < high


def test_samples_are_columns_with_observations_first():
    seen = np.zeros((2, 36), bool)
    seen[1, [4, 7, 30]] = True
    sample = innovations.make_sample((6, 6), 2, None, 5)(jnp.asarray(seen.ravel()))
    assert {4, 7, 30} <= set(np.asarray(sample.columns).tolist())
    np.testing.assert_array_equal(sample.own, sample.columns + 36 * np.arange(2)[:, None])


def test_off_the_grid_a_position_belongs_to_its_nearest_column_and_level():
    positions = np.array([[1.0, 2.4, 5.6], [0.0, 0.6, 3.0]])
    sample = innovations.make_sample((6, 6), 2, positions, 256)(None)
    by_position = {int(own[own >= 0][0]): int(c) for c, own in zip(sample.columns, np.asarray(sample.own).T)}
    assert by_position == {0: 2 * 6 + 0, 1: 1 * 6 + 3}
    assert [np.asarray(sample.own)[level].max() for level in (0, 1)] == [1, 0]


def test_regions_interpolate_linearly_and_keep_constants():
    for matrix in innovations.region_weights((12, 8), 4):
        np.testing.assert_allclose(matrix.sum(1), 1.0)
        assert (matrix >= 0).all()
    along = innovations.region_weights((12,), 4)[0] @ np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(along[[1, 4, 7, 10]], [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(innovations.region_weights((5,), 1)[0], 1.0)


def test_tells_a_white_part_of_rough_places_from_one_everywhere(x64):
    """Data that nothing else says anything about: their scores are those of plain normals."""
    rng = np.random.default_rng(2)
    place = innovations.roughness(jnp.asarray(rng.normal(size=(16, 64))).at[:, 20:].multiply(0.1), 2).reshape(-1)
    fields = jnp.stack([jnp.ones_like(place), place])
    for weight in ((2.0, 0.0), (0.0, 2.0)):
        d = jnp.asarray(rng.normal(size=place.size)) * jnp.sqrt(1.0 + jnp.asarray(weight) @ fields)
        q = innovations.candidates(d, jnp.ones_like(d), jnp.zeros_like(d), 2)
        total = 1.0 + q @ fields
        scores = jnp.repeat((d**2 / total + jnp.log(total)).sum(1)[:, None], len(innovations.INFLATIONS), 1)
        found = innovations.full_rank(scores, q, 0.4, 1e-3)
        np.testing.assert_allclose(found, weight, atol=0.7)  # candidates are a factor of two apart
        assert found.min() < 1e-3


def test_roughness_has_mean_one_and_is_where_the_field_bends(x64):
    x = np.arange(64)
    front = np.tanh((x - 32) / 2.0) * np.ones((2, 8, 1))
    rough = innovations.roughness(jnp.asarray(front), 2)
    assert rough.shape == front.shape
    np.testing.assert_allclose(rough.mean(), 1.0, rtol=1e-12)
    assert rough[0, 4, 33] > 20 * rough[0, 4, 16]  # x = 0 is another front
    np.testing.assert_allclose(innovations.roughness(jnp.full((2, 8, 8), 3.0), 2), 1.0, rtol=1e-12)
    np.testing.assert_allclose(innovations.roughness(7.0 * jnp.asarray(front) + 2.0, 2), rough, rtol=1e-9)
