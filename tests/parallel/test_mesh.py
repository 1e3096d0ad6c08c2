"""Functions spread over two CPU devices: the same numbers as on one, without communication."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxda.models import sqg
from jaxda.models.sqg import SQGConfig
from jaxda.parallel import mesh as mesh_module
from jaxda.parallel.mesh import by_members, member_mesh, over_columns, over_members, with_all_members

KEY = jax.random.key(0)

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-|reduce-scatter")


@pytest.fixture
def mesh(cpus):
    return member_mesh(4, cpus)


@pytest.fixture
def ensemble(mesh, band_limited):
    """Four SQG states, spread over the mesh."""
    states = 1000.0 * band_limited(0, 16, shape=(4, 2)).astype(np.float32)
    return jax.device_put(states, NamedSharding(mesh, PartitionSpec("member")))


def compiled(function, ensemble):
    return jax.jit(function).lower(ensemble).compile().as_text()


@pytest.mark.parametrize(("members", "size"), [(1, 1), (2, 2), (7, 1), (8, 2)])
def test_member_mesh_takes_devices_that_divide_the_members(cpus, members, size):
    mesh = member_mesh(members, cpus)
    assert mesh.size == size
    assert mesh.axis_names == ("member",)
    assert list(mesh.devices) == cpus[:size]


@pytest.mark.parametrize("large", [True, False])
def test_forecast_needs_no_communication(mesh, ensemble, monkeypatch, large):
    monkeypatch.setattr(mesh_module, "LARGE", 512 if large else 513)
    forecast = sqg.make_advance(SQGConfig(N=16, U=20.0), 2)
    # the ensemble mean must communicate: it shows that the words looked for are the compiler's
    assert COLLECTIVE.search(compiled(lambda x: x - x.mean(0), ensemble))
    assert not COLLECTIVE.search(compiled(over_members(forecast, mesh), ensemble))


def test_spread_over_devices_is_the_same_as_on_one(mesh, ensemble, assert_near):
    forecast = sqg.make_advance(SQGConfig(N=16, U=20.0), 5)
    spread = jax.jit(over_members(forecast, mesh))(ensemble)
    assert len(spread.sharding.device_set) == 2
    assert_near(spread, jax.jit(forecast)(np.asarray(ensemble)), 1e-6)


@pytest.mark.parametrize("devices", [None, 1, 2])
@pytest.mark.parametrize("large", [True, False])
def test_a_cpu_takes_large_members_in_turn_and_gives_the_same_numbers(
    cpus, ensemble, assert_near, monkeypatch, devices, large
):
    monkeypatch.setattr(mesh_module, "LARGE", 512 if large else 513)
    forecast = sqg.make_advance(SQGConfig(N=16, U=20.0), 5)
    shapes = []

    def noted(states):
        shapes.append(states.shape)
        return forecast(states)

    mesh = devices and member_mesh(devices, cpus)
    with jax.default_device(cpus[0]):
        result = jax.jit(over_members(noted, mesh))(np.asarray(ensemble))
    assert set(shapes) == {(2, 16, 16) if large else (4 // (devices or 1), 2, 16, 16)}
    assert_near(result, jax.jit(forecast)(np.asarray(ensemble)), 1e-6)


@pytest.mark.parametrize("devices", [None, 1, 2])
@pytest.mark.parametrize("large", [True, False])
def test_all_members_share_what_else_a_function_takes(cpus, monkeypatch, devices, large):
    """Weights that may change from call to call, whole on each device."""
    monkeypatch.setattr(mesh_module, "LARGE", 12 if large else 13)
    members = np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)
    shapes = []

    def function(states, weights, shift):
        shapes.append((weights["matrix"].shape, shift.shape))
        return states @ weights["matrix"] + shift

    with jax.default_device(cpus[0]):
        spread = jax.jit(over_members(function, devices and member_mesh(4, cpus[:devices])))
        for size in (1.0, 2.0):
            weights = {"matrix": size * np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)}
            shift = np.arange(4, dtype=np.float32)
            expected = members @ weights["matrix"] + shift
            np.testing.assert_allclose(spread(members, weights, shift), expected, rtol=1e-5, atol=1e-6)
    assert set(shapes) == {((4, 4), (4,))}


def test_members_that_do_not_divide_are_refused(mesh):
    with pytest.raises(ValueError, match=r"members = 3 do not divide over 2 devices; use a multiple"):
        over_members(jnp.sin, mesh)(jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"members = 3 do not divide over 2 devices; use a multiple"):
        by_members(lambda key, ensemble, observation, axis: ensemble, mesh)(KEY, jnp.ones((3, 5)), 0.0)


@pytest.mark.parametrize("devices", [None, 1, 2])
@pytest.mark.parametrize(("total", "batch"), [(1, 1), (12, 4), (12, 100), (13, 4), (13, 1), (7, 3)])
def test_columns_come_back_complete_and_in_order(cpus, devices, total, batch):
    mesh = devices and member_mesh(devices, cpus)
    table = np.random.default_rng(0).normal(size=(total, 3)).astype(np.float32)

    def run(key, members, table, axis):
        return over_columns(lambda columns, table: 2 * table[columns], total, axis, batch)(table)[None]

    # every device has the whole result
    results = jax.jit(by_members(run, mesh))(KEY, np.zeros(devices or 1), table)
    np.testing.assert_array_equal(results, [2 * table] * (devices or 1))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_bounds_the_columns_done_at_once(cpus, devices):
    sizes = []

    def function(columns):
        sizes.append(len(columns))
        return columns

    run = lambda key, members, _, axis: over_columns(function, 20, axis, 6)()
    by_members(run, member_mesh(devices, cpus))(KEY, np.zeros(devices), np.zeros(0))
    assert set(sizes) == {6}


def test_an_analysis_of_all_members_is_cut_back_to_each_devices_own(cpus):
    members = np.arange(6.0, dtype=np.float32)

    def analysis(key, ensemble, observation, axis):
        assert len(ensemble) == 6
        return ensemble.cumsum() + observation

    result = jax.jit(with_all_members(analysis, member_mesh(6, cpus)))(KEY, members, np.float32(1.0))
    np.testing.assert_array_equal(result, members.cumsum() + 1.0)
    assert len(result.sharding.device_set) == 2
