"""The time of collectives: closed forms of a ring, limits, and the tables' own points."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from jaxda import config
from jaxda.parallel.hlo import Transfer
from jaxda.parallel.machine import Machine, Table, factor, rescaled

FRONTIER = Path(__file__).parents[2] / "configs" / "machines" / "frontier.toml"
HOP, SPEED = 2e-6, 10e9


def ring(devices, size):
    """A ring's all-reduce: 2 (n - 1) messages of S/n, each of them HOP and S/n over SPEED."""
    return 2 * (devices - 1) * (HOP + size / devices / SPEED)


@pytest.fixture(scope="module")
def table():
    """What nccl-tests would print of a ring of 64."""
    sizes = [2.0**power for power in range(20, 31, 2)]
    return Table(devices=64, sizes=sizes, bus_bandwidths=[factor("all-reduce", 64) * s / ring(64, s) for s in sizes])


@pytest.fixture(scope="module")
def machine(table):
    node = Table(devices=4, sizes=[1e6, 1e9], bus_bandwidths=[80e9, 80e9])
    return Machine(node=4, all_reduce=[node, table], rates=[[1, 1e12]])


@pytest.fixture(scope="module")
def frontier():
    return config.read(FRONTIER, {}, Machine)


@pytest.mark.parametrize("devices", [2, 16, 64, 256])
@pytest.mark.parametrize("size", [0.0, 1e3, 2.0**20, 2.0**26])
def test_a_ring_s_table_gives_the_ring_at_any_number_of_devices(table, devices, size):
    assert table.hop == pytest.approx(HOP)
    expected = ring(devices, size) if size else 0.0
    assert table.seconds(size, devices) == pytest.approx(expected, rel=1e-6)


def test_limits(table, machine):
    assert table.seconds(1e9, 1) == 0
    assert table.seconds(0, 64) == 0
    assert machine.seconds("all-reduce", 1e9, (5,)) == 0
    assert machine.seconds("all-reduce", 1e9, ()) == 0


def test_time_grows_with_size_and_with_devices(table):
    times = np.array(
        [[table.seconds(size, n) for n in (2, 4, 64, 1024)] for size in (1, 1e5, 1e6, 1e7, 1e8, 1e9, 1e11)]
    )
    assert (np.diff(times, axis=0) > 0).all()
    assert (np.diff(times, axis=1) > 0).all()


def test_gathering_and_scattering_are_the_halves_of_an_all_reduce(machine):
    group = tuple(range(64))
    whole = machine.seconds("all-reduce", 1e8, group)
    halves = [machine.seconds(kind, 1e8, group) for kind in ("all-gather", "reduce-scatter")]
    assert halves[0] == halves[1]
    assert sum(halves) == pytest.approx(whole)


def test_a_group_in_a_node_has_the_node_s_links_and_one_with_strides_shares_the_others(machine):
    size = 1e8
    assert machine.seconds("all-gather", size, (4, 5, 6, 7)) == pytest.approx(0.75 * size / 80e9)
    strided, together = tuple(range(0, 64, 4)), machine.all_reduce[1].seconds(4 * size, 16)
    assert machine.seconds("all-reduce", size, strided) == pytest.approx(together)


def test_frontier_s_table_gives_its_own_points(frontier):
    group = tuple(range(1024))
    for size, speed in ((2**24, 7.3e9), (2**28, 8.1e9), (2**32, 33.6e9)):
        seconds = frontier.seconds("all-reduce", size, group)
        assert 2 * 1023 / 1024 * size / seconds == pytest.approx(speed, rel=1e-6)
    # a step of the ring takes what a message takes from node to node
    assert 1e-6 < frontier.all_reduce[1].hop < 3e-6


def test_rates_by_how_many_compute_at_once():
    machine = Machine(rates=[[1, 5e9], [4, 2e9]], all_reduce=[Table(devices=2, sizes=[1, 2], bus_bandwidths=[1, 1])])
    assert [machine.rate(n) for n in (1, 2, 4, 100)] == [5e9, 5e9, 2e9, 2e9]


@pytest.mark.parametrize(
    ("group", "moved"),
    [
        (tuple(range(64)), tuple(range(16))),
        (tuple(range(0, 64, 8)), (0, 8)),
        (tuple(range(8)), tuple(range(8))),
        ((), ()),
    ],
)
def test_groups_of_the_same_program_on_fewer_devices(group, moved):
    assert rescaled(Transfer("all-gather", 1, 8, group, ""), 64, 16).group == moved


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": [1, 2, 3]}, r"sizes has 3 entries and bus_bandwidths 2"),
        ({"sizes": [2, 1]}, r"sizes = \[2.0, 1.0\] do not grow"),
        ({"devices": 1}, r"devices = 1: nothing is sent on one"),
    ],
)
def test_tables_that_cannot_be(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Table(**{"devices": 2, "sizes": [1, 2], "bus_bandwidths": [1, 1]} | wrong)


def test_tables_in_the_wrong_order():
    tables = [Table(devices=n, sizes=[1, 2], bus_bandwidths=[1, 1]) for n in (8, 2)]
    with pytest.raises(ValidationError, match=r"all_reduce.devices = \[8, 2\] do not grow"):
        Machine(all_reduce=tables)
