"""The time model on programs made up by hand, whose times are sums that one can do on paper."""

import itertools

import pytest

from jaxda.parallel.hlo import Product, Transfer
from jaxda.parallel.machine import Machine, Table
from jaxda.parallel.scaling import (
    OVERLAPS,
    Work,
    best,
    curve,
    efficiencies,
    messages,
    predict,
    strong_efficiencies,
)

EVERY = tuple(range(64))
LAYERS = 10


@pytest.fixture(scope="module")
def machine():
    """1 TFLOP/s, 1 GB/s on every wire, no time for a message of nothing."""
    table = Table(devices=64, sizes=[1e3, 1e12], bus_bandwidths=[1e9, 1e9])
    return Machine(rates=[[1, 1e12]], memory_bandwidth=1e12, reading=1e6, all_reduce=[table])


def gather(seconds, times=1, loop="", beside=0.0, kind="all-gather"):
    """A collective that takes so long each time."""
    size = round(seconds * 1e9 * 64 / 63) if kind == "all-gather" else round(seconds * 1e9 * 32 / 63)
    return Transfer(kind, times, size, EVERY, loop, beside)


def work(compute=1.0, looped=0.5, end=0.0, beside=0.0, reading=0.0):
    """A loop of 10 layers that computes and gathers, and an all-reduce after it; times in all [s]."""
    products = (Product(compute / LAYERS * 1e12, LAYERS, "loop"),)
    sent = (gather(looped / LAYERS, LAYERS, "loop", beside * 1e12), gather(end, kind="all-reduce"))
    return Work(64, products, sent, reading=reading)


def close(*values):
    return pytest.approx(values if len(values) > 1 else values[0], rel=1e-6)


def test_without_overlap_times_add(machine):
    found = predict(work(1.0, 0.5, 0.25, reading=1e5), machine)
    assert (found.compute, found.communication, found.hidden, found.reading) == close(1.0, 0.75, 0.0, 0.1)
    assert found.total == close(1.85)
    assert sum(found.shares) == close(1.0)


def test_pipelining_hides_all_of_a_loop_but_its_first_turn(machine):
    found = predict(work(1.0, 0.5, 0.25), machine, "pipelined")
    assert found.exposed == close(0.05 + 0.25)


def test_a_loop_in_a_loop_is_there_to_hide_behind(machine):
    inner = (Product(0.1e12, 10, "loop/inner"),)
    assert predict(work(1.0, 0.5)._replace(products=inner), machine, "pipelined").hidden == close(0.45)
    other = (Product(0.1e12, 10, "loop-of-others"),)
    assert predict(work(1.0, 0.5)._replace(products=other), machine, "pipelined").hidden == 0


def test_no_more_hides_than_there_is_to_compute(machine):
    found = predict(work(1.0, 5.0), machine, "pipelined")
    assert found.hidden == close(1.0)
    assert found.total == close(5.0)


def test_only_what_does_not_wait_hides_beside(machine):
    assert predict(work(1.0, 0.5), machine, "beside").hidden == 0
    # each gather of 0.05 s has products of 0.02 s that do not wait for it
    assert predict(work(1.0, 0.5, beside=0.02), machine, "beside").hidden == close(0.2)
    assert predict(work(1.0, 0.5, beside=0.08), machine, "beside").hidden == close(0.5)


def test_an_unknown_overlap_is_refused(machine):
    with pytest.raises(ValueError, match=r"overlap = some: is none of none, beside, pipelined; use one"):
        predict(work(), machine, "some")


def test_nothing_is_sent_on_one_device(machine):
    found = predict(work(1.0, 0.5, 0.25).at(1), machine)
    assert found.communication == 0
    assert found.total == close(1.0)


def test_memory_that_takes_longer_than_products_is_what_counts(machine):
    assert predict(work(1.0, 0.0)._replace(traffic=3e12), machine).compute == close(3.0)
    assert predict(work(1.0, 0.0)._replace(traffic=0.5e12), machine).compute == close(1.0)


def test_more_samples_take_longer_and_send_as_much(machine):
    once, twice = (predict(work(1.0, 0.5, reading=1e5).times(n), machine) for n in (1, 2))
    assert (twice.compute, twice.reading) == close(2 * once.compute, 2 * once.reading)
    assert twice.communication == once.communication


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_efficiency_falls_with_devices_and_hiding_helps(machine, overlap):
    numbers = (1, 2, 8, 64, 1024)
    found = efficiencies(curve(work(1.0, 0.5, 0.25), machine, numbers, overlap, None))
    assert found[0] == 1
    assert all(a > b for a, b in itertools.pairwise(found))
    least = efficiencies(curve(work(1.0, 0.5, 0.25), machine, numbers, "none", None))
    assert all(a >= b for a, b in zip(found, least, strict=True))


def test_messages_are_cut_outside_of_loops_and_made_of_whole_turns_inside():
    some = [Transfer("all-gather", 10, 100, EVERY, "loop"), Transfer("all-reduce", 1, 1000, EVERY, "")]
    as_sent = lambda size: {one.kind: (number, each) for one, number, each in messages(some, size)}
    assert as_sent(None) == {"all-gather": (10, 100), "all-reduce": (1, 1000)}
    assert as_sent(50) == {"all-gather": (10, 100), "all-reduce": (20, 50)}
    assert as_sent(250) == {"all-gather": (5, 200), "all-reduce": (4, 250)}
    assert as_sent(499)["all-gather"] == (5, 200)  # neither 3 nor 4 divide 10 turns
    assert as_sent(1e9) == {"all-gather": (1, 1000), "all-reduce": (1, 1000)}


def test_messages_of_one_kind_and_group_go_together():
    some = [Transfer("all-reduce", 1, size, EVERY, "") for size in (1, 2, 3)]
    ((_, number, size),) = messages(some, 100)
    assert (number, size) == (1, 6)
    assert sum(number * size for _, number, size in messages(some, 4)) == pytest.approx(6)


def test_the_best_message_weighs_latency_against_the_first_turn():
    """Larger messages pay fewer latencies; once pipelined, the first of them hides behind nothing."""
    hop, speed = 1e-4, 1e9
    sizes = [1e3, 1e9]
    bandwidths = [2 * 63 / 64 * s / (2 * 63 * (hop + s / 64 / speed)) for s in sizes]
    slow = Machine(rates=[[1, 1e12]], all_reduce=[Table(devices=64, sizes=sizes, bus_bandwidths=bandwidths)])
    one = work(1.0, 0.01)
    plain, hidden = (best(one, slow, overlap) for overlap in ("none", "pipelined"))
    assert plain.seconds.total < predict(one, slow).total
    # all layers at once, where nothing hides
    assert predict(one, slow, "none", 1e9).total == pytest.approx(plain.seconds.total)
    assert hidden.seconds.total < predict(one, slow, "pipelined", 1e9).total


def test_strong_scaling_is_of_one_batch(machine):
    """1 s of computing on 64 devices is 64 s on one, which sends nothing."""
    numbers = (1, 2, 64)
    found = strong_efficiencies(work(1.0, 0.5, 0.25), machine, numbers, "none", None)
    wires = lambda n: 0.75 * ((n - 1) / n) / (63 / 64)
    assert found == pytest.approx([1.0, *(64 / (n * (64 / n + wires(n))) for n in numbers[1:])], rel=1e-6)
    assert strong_efficiencies(work(1.0, 0.0), machine, numbers, "none", None) == pytest.approx([1.0, 1.0, 1.0])
