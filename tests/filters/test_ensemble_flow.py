"""The two probability flows: the Gaussian solution, mixtures in closed form, members that stay near."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.filters.ensemble_flow import transport


def problem(members, seed=0, observations=4):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(observations, members))
    y -= y.mean(1, keepdims=True)
    d = rng.normal(size=observations)
    return y.T @ y, y.T @ d


def test_gaussian_kernel_is_the_symmetric_square_root(x64, assert_near):
    gram, projected = problem(6)
    values, vectors = np.linalg.eigh(np.eye(6) + gram)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    expected = np.sqrt(5.0) * root + (root @ root @ projected)[:, None]
    assert_near(transport(gram, projected), expected, 1e-10)


def test_wide_kernels_tend_to_the_gaussian(x64, assert_near):
    gram, projected = problem(6)
    centred = np.eye(6) - 1 / 6
    assert_near(centred @ transport(gram, projected, 0.99999, 40), centred @ transport(gram, projected), 1e-3)


@pytest.mark.parametrize("kernel", [0.3, 0.6])
def test_without_data_members_stay(x64, kernel):
    stay = transport(np.zeros((7, 7)), np.zeros(7), kernel, 60)
    np.testing.assert_allclose(stay, np.sqrt(6.0) * (np.eye(7) - 1 / 7), atol=5e-3)


def test_two_modes_are_weighted_as_bayes_says(x64):
    """One direction: members at about -1 and +1, a datum that makes one side likelier by a known factor."""
    members, kernel = 200, 0.2
    rng = np.random.default_rng(3)
    side = np.where(np.arange(members) % 2 == 0, 1.0, -1.0)
    x = side + 0.15 * rng.normal(size=members)
    mean, deviation = x.mean(), x - x.mean()
    scaled = deviation / np.sqrt(members - 1)
    variance, value = 1.0, 0.6
    gram = np.outer(scaled, scaled) / variance
    projected = scaled * (value - mean) / variance
    found = mean + scaled @ np.asarray(transport(gram, projected, kernel, 60))

    # the same posterior on a grid: the shrunk kernel density estimate times the likelihood
    grid = np.linspace(-4.0, 4.0, 4001)
    spread = x.std(ddof=1)
    centres = mean + np.sqrt(1 - kernel**2) * deviation * np.sqrt(members / (members - 1))
    prior = np.exp(-0.5 * ((grid[:, None] - centres) / (kernel * spread)) ** 2).sum(1)
    density = prior * np.exp(-0.5 * (value - grid) ** 2 / variance)
    density /= density.sum()
    exact = (density * grid).sum()
    deviation_exact = np.sqrt((density * (grid - exact) ** 2).sum())
    # members are one draw of the prior: their sampling error is what remains
    np.testing.assert_allclose(found.mean(), exact, atol=0.08)
    np.testing.assert_allclose(found.std(), deviation_exact, rtol=0.08)
    np.testing.assert_allclose((found > 0).mean(), density[grid > 0].sum(), atol=0.05)


def test_members_keep_their_order_on_a_line(x64):
    """A flow in one direction cannot cross itself: each member stays coupled to its forecast."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.normal(size=15))
    scaled = (x - x.mean()) / np.sqrt(14)
    for kernel in (0.4, 1.0):
        moved = scaled @ np.asarray(transport(jnp.outer(scaled, scaled) * 3.0, scaled * 2.0, kernel, 40))
        assert (np.diff(moved) > 0).all()
