"""The matrix iteration against an eigen-decomposition in double precision."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxda.numerics.matrices import inverse_square_root

M = 12
inverse_square_root = jax.jit(inverse_square_root)


def symmetric(seed, eigenvalues):
    """Matrices `(..., m, m)` with the given eigenvalues `(..., m)` in random directions."""
    eigenvalues = np.asarray(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(*eigenvalues.shape, eigenvalues.shape[-1])))[0]
    return np.einsum("...ij,...j,...kj->...ik", basis, eigenvalues, basis)


def by_eigenvectors(a):
    values, vectors = np.linalg.eigh(a.astype(float))
    return np.einsum("...ij,...j,...kj->...ik", vectors, values**-0.5, vectors)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("condition", [1.0, 1e1, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("smallest", [0.01, 19.0])
def test_agrees_with_the_eigen_decomposition(x64, assert_near, dtype, condition, smallest):
    a = symmetric(0, smallest * np.geomspace(1.0, condition, M) * np.ones((3, 1))).astype(dtype)
    # storing A moves its smallest eigenvalue by eps ||A||: no algorithm has a relative error under condition * eps / 2
    tolerance = (10 + 2 * condition) * np.finfo(dtype).eps
    result = inverse_square_root(a, smallest)
    assert result.dtype == dtype
    assert_near(result, by_eigenvectors(a), tolerance)


def test_matrices_of_one_batch_may_be_of_any_condition(x64, assert_near):
    conditions = np.array([1.0, 10.0, 1e3, 1e6])
    largest = np.array([1e-4, 1.0, 50.0, 1e5])
    a = symmetric(1, largest[:, None] * np.geomspace(1 / conditions, 1.0, M, axis=-1))
    together = inverse_square_root(a, largest / conditions)
    for matrix, result, c in zip(a, together, conditions, strict=True):
        assert_near(result, by_eigenvectors(matrix), (10 + 2 * c) * np.finfo(float).eps)


def test_a_bound_far_under_the_smallest_eigenvalue_serves(x64, assert_near):
    a = symmetric(2, np.geomspace(1.0, 100.0, M))
    assert_near(inverse_square_root(a, 1e-3), by_eigenvectors(a), 1e-12)


@given(
    eigenvalues=st.lists(st.floats(1.0, 1e3), min_size=M, max_size=M),
    seed=st.integers(0, 2**32 - 1),
)
def test_is_symmetric_and_whitens(x64, eigenvalues, seed):
    a = symmetric(seed, eigenvalues)
    root = np.asarray(inverse_square_root(a, 1.0))
    np.testing.assert_allclose(root @ a @ root, np.eye(M), atol=1e-11)
    np.testing.assert_allclose(root, root.T, atol=1e-13)


@pytest.mark.parametrize("members", [2, 8, 20, 80])
@pytest.mark.parametrize("observed", [5, 40])
@pytest.mark.parametrize("precision", [1e4, 1e6, 1e8, 1e12, 1e16])
def test_stays_finite_where_rounding_decides_the_smallest_eigenvalues(members, observed, precision):
    """(M - 1) I + Y^T R^-1 Y in single precision: computed with either sign above a condition of 10^7."""
    y = np.random.default_rng(members).normal(size=(observed, members))
    y = np.sqrt(precision) * (y - y.mean(1, keepdims=True))
    a = (y.astype(np.float32).T @ y.astype(np.float32)) + (members - 1) * np.eye(members, dtype=np.float32)
    root = np.asarray(inverse_square_root(a, members - 1.0))
    values, vectors = np.linalg.eigh(y.T @ y + (members - 1) * np.eye(members))
    sure = values > 1e-4 * values.max()  # known to three digits
    np.testing.assert_allclose(np.einsum("ji,jk,ki->i", vectors, root, vectors)[sure], values[sure] ** -0.5, rtol=3e-4)
    own = np.linalg.eigvalsh(root.astype(float)) * np.sqrt(members - 1.0)
    assert own.max() < 1.01
    assert own.min() > -0.002 * own.max()  # the small ones are under the rounding of the large ones
