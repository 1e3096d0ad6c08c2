"""The taper's closed form, and the two ways to the same neighbours."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxda.filters.localization import (
    Geometry,
    gaspari_cohn,
    make_neighbours,
    periodic_distance,
    vertical_taper,
)
from jaxda.observations import FUNCTIONS, Operator

IDENTITY = FUNCTIONS["identity"](1.0)


def test_taper_has_its_known_values():
    np.testing.assert_allclose(gaspari_cohn([0.0, 0.25, 0.5, -0.5]), [1.0, 263 / 384, 5 / 24, 5 / 24], rtol=1e-14)
    np.testing.assert_array_equal(gaspari_cohn([1.0, 1.0 + 1e-12, -3.0]), 0.0)
    assert np.all(np.diff(gaspari_cohn(np.linspace(0.0, 1.0, 200))) < 0.0)


@pytest.mark.parametrize("r", [0.0, 0.5, 1.0])
def test_taper_has_no_jump_and_no_kink_where_its_pieces_meet(r):
    for h in (1e-3, 1e-4):  # a jump would leave a constant here, a kink a multiple of h
        bend = gaspari_cohn(r + h) - 2.0 * gaspari_cohn(r) + gaspari_cohn(r - h)
        assert abs(bend) < 20.0 * h**2


@pytest.mark.parametrize("cutoff", [1.5, 3.0, 7.0, 20.0])
def test_taper_is_positive_definite_on_the_periodic_line(cutoff):
    taper = gaspari_cohn(periodic_distance(np.arange(40.0)[:, None], (40,)) / cutoff)
    eigenvalues = np.fft.fft(taper)  # a circulant matrix
    assert np.abs(eigenvalues.imag).max() < 1e-12
    assert eigenvalues.real.min() >= -1e-12


@given(point=st.tuples(st.floats(-12.0, 12.0), st.floats(-10.0, 10.0)))
def test_periodic_distance_is_that_to_the_nearest_image(point):
    images = np.array([(point[0] + 6.0 * i, point[1] + 5.0 * j) for i in range(-3, 4) for j in range(-3, 4)])
    assert periodic_distance(np.array(point), (6.0, 5.0)) == pytest.approx(np.hypot(*images.T).min(), abs=1e-12)


def test_weight_of_the_other_boundary():
    geometry = Geometry((2, 8, 8), 500.0, boundary_distance=1000.0)
    other = gaspari_cohn(1000.0 / 2200.0)
    np.testing.assert_allclose(vertical_taper(geometry, 2200.0), [[1.0, other], [other, 1.0]], rtol=1e-15)
    np.testing.assert_array_equal(vertical_taper(geometry, 2200.0, 0.3), [[1.0, 0.3], [0.3, 1.0]])
    np.testing.assert_array_equal(vertical_taper(geometry, 900.0), np.eye(2))
    np.testing.assert_array_equal(vertical_taper(Geometry((12,), 1.0), 3.0), [[1.0]])


def table(neighbours, columns, total):
    """Tapers `(levels, columns, total)` of every observation, each found at most once."""
    index, taper = (np.asarray(a) for a in jax.jit(neighbours)(columns))
    dense = np.zeros((*index.shape[:2], total))
    for level, c in np.ndindex(index.shape[:2]):
        used = index[level, c][taper[level, c] > 0]
        assert len(set(used)) == len(used)
        dense[level, c, used] = taper[level, c][taper[level, c] > 0]
    return dense


@pytest.mark.parametrize(
    ("shape", "spacing", "cutoff"),
    [
        ((2, 6, 6), 500.0, 600.0),
        ((2, 6, 6), 500.0, 1400.0),
        ((2, 6, 6), 500.0, 1e5),
        ((9,), 1.0, 2.5),
        ((9,), 1.0, 50.0),
    ],
)
def test_neighbours_on_the_grid_are_those_of_the_same_positions(x64, shape, spacing, cutoff):
    geometry = Geometry(shape, spacing, boundary_distance=1000.0)
    sites = np.argwhere(np.ones(shape))  # in the order of flat indices
    total, columns = len(sites), np.arange(np.prod(geometry.columns))
    on_grid = table(make_neighbours(geometry, Operator(shape, IDENTITY), cutoff), columns, total)
    at_sites = table(make_neighbours(geometry, Operator(shape, IDENTITY, sites), cutoff), columns, total)
    np.testing.assert_allclose(on_grid, at_sites, rtol=1e-14)
    horizontal = sites[:, -len(geometry.columns) :]
    for c in columns:
        distance = spacing * periodic_distance(horizontal - horizontal[c], geometry.columns)
        taper = np.where(gaspari_cohn(distance / cutoff) > 1e-10, gaspari_cohn(distance / cutoff), 0.0)
        level_of = sites[:, 0] if geometry.levels == 2 else np.zeros(total)
        expected = [np.where(level_of == level, taper, 0.0) for level in range(geometry.levels)]
        np.testing.assert_allclose(on_grid[:, c], expected, rtol=1e-14)


def test_neighbours_of_positions_between_grid_points(x64):
    geometry = Geometry((2, 6, 6), 500.0, boundary_distance=1000.0)
    positions = np.array([[0, 5.5, 5.9], [1, 0.2, 0.1], [1, 3.0, 3.0]])
    dense = table(make_neighbours(geometry, Operator((2, 6, 6), IDENTITY, positions), 800.0), np.arange(36), 3)
    near_origin = gaspari_cohn(500.0 * np.hypot([0.5, 0.2], [0.1, 0.1]) / 800.0)  # across the seam, and not
    np.testing.assert_allclose(dense[:, 0], [[near_origin[0], 0, 0], [0, near_origin[1], 0]], rtol=1e-12)
    np.testing.assert_array_equal(dense[:, 21], [[0, 0, 0], [0, 0, 1]])
