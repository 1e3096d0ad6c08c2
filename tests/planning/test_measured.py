"""The model beside steps that ran: what is taken from the first, and what is predicted of the others."""

import pytest

from jaxda.parallel.hlo import Product, Transfer
from jaxda.parallel.machine import Machine, Table
from jaxda.parallel.scaling import Work
from jaxda.planning import measured
from jaxda.planning.measured import Timed


def timed(devices, seconds):
    """A step of 3 GFLOP that sums a megabyte."""
    group = tuple(range(devices))
    return Timed(Work(devices, (Product(1e9, 3, "/loop"),), (Transfer("all-reduce", 1, 10**6, group, ""),)), seconds)


@pytest.fixture
def machine():
    table = Table(devices=4, sizes=[1e3, 1e9], bus_bandwidths=[1e8, 1e8])
    return Machine(rates=[[1, 4e9], [2, 4e9], [4, 1e9]], all_reduce=[table])


def test_the_first_says_how_fast_a_step_is_and_the_others_follow(machine):
    # 1.5 s where products alone would take 0.75: half of their rate is reached
    found = measured.expected([timed(1, 1.5), timed(2, 9.0), timed(4, 9.0)], machine)
    assert [one.compute for one in found] == pytest.approx([1.5, 1.5, 6.0])
    assert [one.communication for one in found] == pytest.approx([0.0, 0.01, 0.015])
    assert found[0].total == pytest.approx(1.5)


def test_text_gives_it_back():
    one = timed(2, 0.5)
    assert measured.from_text("something else\n" + measured.as_text(one) + "\n") == one
