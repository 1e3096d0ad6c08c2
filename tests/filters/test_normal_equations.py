"""Convolutions give what gathers give, in both filters that use them, and are chosen where they are faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.filters import letkf, local_score, normal_equations
from jaxda.filters.localization import Geometry, make_neighbours
from jaxda.observations import FUNCTIONS, Observation, Operator
from jaxda.parallel.mesh import member_mesh

PLANE = Geometry((2, 8, 10), spacing=500.0, boundary_distance=1000.0)
LINE = Geometry((17,), spacing=1.0)
CUTOFFS = {PLANE: 1700.0, LINE: 5.0}
SPACES = pytest.mark.parametrize("geometry", [PLANE, LINE], ids=["plane", "line"])


def on_grid(geometry):
    return Operator(geometry.shape, FUNCTIONS["identity"](1.0))


def case(geometry, members=5):
    """Members, and observations of half the points."""
    rng = np.random.default_rng(0)
    ensemble = rng.normal(3.0, 2.0, size=(members, *geometry.shape))
    precision = rng.uniform(0.5, 2.0, size=geometry.shape) * (rng.uniform(size=geometry.shape) < 0.5)
    return ensemble, Observation(rng.normal(3.0, 2.0, size=geometry.shape), precision)


@SPACES
@pytest.mark.parametrize("power", [1.0, 1.7])
def test_convolved_entries_are_the_sums_over_the_neighbours(x64, assert_near, geometry, power):
    ensemble, observation = case(geometry)
    parts = ensemble.reshape(5, -1).T, observation.values.ravel(), observation.precision.ravel()
    y, innovation, precision = map(jnp.asarray, parts)
    columns = np.array([0, 3, 16])
    index, taper = make_neighbours(geometry, on_grid(geometry), CUTOFFS[geometry])(columns)
    gram, projected = normal_equations.normal_equations(y[index], innovation[index], taper**power * precision[index])
    entries = normal_equations.convolved(geometry, CUTOFFS[geometry], y, innovation, precision, power, None)
    found = normal_equations.picked(entries, columns)
    assert_near(found[0], gram, 1e-13)
    assert_near(found[1], projected, 1e-13)


FILTERS = {
    "letkf": lambda geometry, mesh: letkf.make_analysis(
        letkf.LETKFConfig(cutoff=CUTOFFS[geometry]), geometry, on_grid(geometry), mesh
    ),
    "local-score": lambda geometry, mesh: local_score.make_analysis(
        local_score.LocalScoreConfig(cutoff=CUTOFFS[geometry]), geometry, on_grid(geometry), mesh
    ),
}


@pytest.mark.parametrize(
    ("name", "geometry"), [("letkf", PLANE), ("letkf", LINE), ("local-score", PLANE)], ids=["plane", "line", "ours"]
)
def test_analyses_by_convolution_are_those_by_gathers(x64, assert_near, monkeypatch, cpus, name, geometry):
    ensemble, observation = case(geometry, members=6)
    key = jax.random.key(1)
    by_gathers = jax.jit(FILTERS[name](geometry, None))(key, ensemble, observation)
    monkeypatch.setattr(normal_equations, "MANY", 1)
    for mesh in (None, member_mesh(6, cpus)):
        analysis = FILTERS[name](geometry, mesh)
        assert_near(jax.jit(analysis)(key, ensemble, observation), by_gathers, 1e-11)


def test_convolutions_are_for_many_observations_on_the_grid():
    fine = Geometry((2, 64, 64), spacing=100.0, boundary_distance=1000.0)
    assert normal_equations.convolves(fine, on_grid(fine), 2000.0)
    assert not normal_equations.convolves(fine, on_grid(fine), 300.0)
    assert not normal_equations.convolves(fine, on_grid(fine), np.inf)
    assert not normal_equations.convolves(
        fine, Operator(fine.shape, FUNCTIONS["identity"](1.0), np.zeros((3, 3))), 2000.0
    )


def test_batches_keep_within_the_budget_and_what_is_asked_for(monkeypatch):
    of_one = 4 * 2 * 1000
    fit = normal_equations.BUDGET // of_one
    assert normal_equations.batch_of(None, 2, 1000) == normal_equations.IN_CACHE
    assert normal_equations.batch_of(10**6, 2, 1000) == fit
    assert normal_equations.batch_of(7, 2, 1000) == 7
    assert normal_equations.batch_of(7, 2, 10**9) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert normal_equations.batch_of(None, 2, 1000) == fit


def test_reach_is_what_a_column_gathers():
    neighbours = make_neighbours(PLANE, on_grid(PLANE), 1700.0)
    assert normal_equations.reach_of(neighbours) == neighbours(jnp.zeros(1, int))[0].shape[-1]


@pytest.mark.parametrize(("most", "tolerance"), [(1e4, 3e-3), (1e9, np.inf)])
def test_a_datum_far_more_precise_than_others_leaves_them_finite(monkeypatch, most, tolerance):
    """Up to MOST times as precise as usual it is what gathers make of it, in single precision."""
    ensemble, observation = case(PLANE, members=6)
    precision = np.where(observation.precision > 0, 1.0, 0.0)
    precision[0, 3, 3] = most
    given = jax.random.key(1), ensemble.astype(np.float32), Observation(observation.values, precision)
    by_gathers = np.asarray(jax.jit(FILTERS["letkf"](PLANE, None))(*given))
    monkeypatch.setattr(normal_equations, "MANY", 1)
    by_convolution = np.asarray(jax.jit(FILTERS["letkf"](PLANE, None))(*given))
    assert np.isfinite(by_convolution).all()
    assert np.abs(by_convolution - by_gathers).max() < tolerance
