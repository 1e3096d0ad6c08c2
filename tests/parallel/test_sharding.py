"""Strategies on 8 devices: the numbers of one device, the collectives and the bytes that they promise."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jaxda.parallel import packing, sharding
from jaxda.parallel.sharding import Layout, ParallelConfig

PROGRAM = Path(__file__).with_name("strategies.py")
NAMES = [
    *("ddp", "ddp, overlap", "zero1", "zero2", "zero3", "zero3, dots", "zero3, prefetch", "zero2, prefetch"),
    *("hybrid_shard", "hybrid_shard, overlap"),
]
DEPTH, BATCHES, NORM = 4, 2, 16


@pytest.fixture(scope="module")
def found():
    """What the program of 8 devices says."""
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def promised(found):
    """By case: (kind, times, bytes, devices, in a loop), from the sizes of the weights alone."""
    whole, layers, uncut = found["whole"], found["layers"], found["uncut"]
    layer, rest = (layers - uncut) // DEPTH, whole - layers  # of what is cut
    every = DEPTH * BATCHES
    gradients = ("all-reduce", 1, whole + NORM, 8, False)  # the loss travels with them
    weights = ("all-gather", 1, whole - uncut, 8, False)
    # what is not cut is summed at the end, with the loss
    last_uncut = ("all-reduce", 1, NORM + uncut, 8, False)

    def sharded(devices, group):
        gather = ("all-gather", every // group, group * layer, devices, True)
        scatter = ("reduce-scatter", every // group, group * layer, devices, True)
        first = ("all-gather", 1, rest, devices, False)
        return [first, gather, gather, scatter, ("reduce-scatter", BATCHES, rest, devices, True)]

    def ahead(kind, group):  # the loop's, and those before or after it
        return [(kind, n // group, group * layer, 8, True) for n in (every, BATCHES * group)]

    nodes = ("all-reduce", 1, (whole - uncut) // 4, 2, False)
    nodes_in_loop = ("all-reduce", every // 2, 2 * layer // 4, 2, True)
    return {
        "ddp": [gradients],
        "ddp, overlap": [("all-reduce", every, layers // DEPTH, 8, True), ("all-reduce", 1, rest + NORM, 8, False)],
        "zero1": [gradients, weights],
        "zero2": [
            ("reduce-scatter", every, layer, 8, True),
            ("reduce-scatter", BATCHES, rest, 8, True),
            last_uncut,
            weights,
        ],
        "zero3": [*sharded(8, 1), last_uncut],
        "zero3, dots": [*sharded(8, 2), last_uncut],
        "zero3, prefetch": [*sharded(8, 1), *ahead("all-gather", 1)[1:], *ahead("reduce-scatter", 1)[1:], last_uncut],
        "zero2, prefetch": [
            *ahead("reduce-scatter", 2),
            ("reduce-scatter", BATCHES, rest, 8, True),
            last_uncut,
            weights,
        ],
        "hybrid_shard": [*sharded(4, 1), nodes, last_uncut],
        "hybrid_shard, overlap": [*sharded(4, 2), nodes_in_loop, ("all-reduce", 1, rest // 4, 2, False), last_uncut],
    }


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_weights_are_those_of_one_device(found, name):
    case, alone = found["cases"][name], found["cases"]["alone"]
    assert case["losses"] == pytest.approx(alone["losses"], rel=1e-12)
    assert len(case["losses"]) == 10
    assert case["error"] < 1e-6 * 0.02  # weights are of order 0.02


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_collectives_are_those_promised_and_no_others(found, name):
    words = ("kind", "times", "bytes", "devices", "looped")
    seen = [tuple(one[word] for word in words) for one in found["cases"][name]["collectives"]]
    assert sorted(seen) == sorted(promised(found)[name])
    assert found["cases"]["alone"]["collectives"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_each_device_holds_what_is_promised(found, name):
    case, whole, uncut = found["cases"][name], found["whole"], found["uncut"]
    parts = 4 if "hybrid" in name else 8
    part = (whole - uncut) // parts + uncut
    stage = sharding.STAGES[name.split(",")[0]]
    own = {
        kind: part if stage >= least else whole for kind, least in (("weights", 3), ("gradients", 2), ("average", 1))
    }
    own["optimizer"] = 2 * own["average"] + 8  # two moments and two counters of steps
    assert case["bytes"] == own


def devices(count, processes=1, platform="cpu"):
    per = count // processes
    return [SimpleNamespace(id=n, process_index=n // per, platform=platform) for n in range(count)]


@pytest.fixture
def shape_of(monkeypatch):
    """A function: configuration and devices -> shape of the mesh, and the numbers of its devices."""
    made = lambda devices: SimpleNamespace(shape=dict(zip(sharding.AXES, devices.shape)), devices=devices)
    monkeypatch.setattr(sharding, "_mesh", made)

    def shape(there, **given):
        layout = sharding.make_layout(ParallelConfig(**given), there)
        mesh = layout.mesh
        return mesh.shape["data"], mesh.shape["fsdp"], [d.id for d in mesh.devices.ravel()], layout.stage

    return shape


def test_what_is_left_out_is_filled_in(shape_of):
    everything = list(range(8))
    assert shape_of(devices(8, platform="gpu")) == (8, 1, everything, 0)
    assert shape_of(devices(8, platform="gpu"), strategy="zero3") == (1, 8, everything, 3)
    assert shape_of(devices(8), strategy="zero3") == (1, 1, [0], 0)  # cores of a CPU work together on one device
    assert shape_of(devices(8, 4), strategy="zero2") == (1, 4, [0, 2, 4, 6], 2)
    assert shape_of(devices(8, 2, "gpu"), strategy="hybrid_shard") == (2, 4, everything, 3)
    assert shape_of(devices(16, 16, "gpu"), strategy="hybrid_shard")[:2] == (2, 8)
    assert shape_of(devices(8, 2, "gpu"), strategy="zero1", devices=4) == (1, 4, [0, 1, 4, 5], 1)
    assert shape_of(devices(8, platform="gpu"), strategy="zero3", fsdp=2)[:2] == (4, 2)


@pytest.mark.parametrize(
    ("there", "given", "said"),
    [
        ((2, 1), {"devices": 4}, r"parallel.devices = 4: there are 2; use no more"),
        ((8, 4), {"devices": 6}, r"parallel.devices = 6 do not divide over 4 processes; use a multiple"),
        ((8, 1), {"devices": 8, "strategy": "zero3", "fsdp": 3}, r"parallel.fsdp = 3 does not divide 8 devices"),
        ((8, 1), {"devices": 8, "fsdp": 2}, r'parallel.fsdp = 2: strategy = "ddp" cuts nothing; use zero1'),
        ((8, 1), {"strategy": "zero1", "prefetch": True}, r'parallel.prefetch = True: strategy = "zero1" communicates'),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(shape_of, there, given, said):
    with pytest.raises(ValueError, match=said):
        shape_of(devices(*there), **given)


def test_a_strategy_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"zero3"):
        ParallelConfig(strategy="zero4")


def layout(parts=8, **given):
    mesh = SimpleNamespace(shape={"data": 2, "fsdp": parts}, size=2 * parts)
    return Layout(mesh, 3, **given)


def test_samples_and_layers_that_do_not_divide_are_refused():
    sharding.require_samples(layout(), 32, 4)
    with pytest.raises(ValueError, match=r"data.batch = 24 does not divide over 16 devices; use a multiple"):
        sharding.require_samples(layout(), 24, 4)
    with pytest.raises(ValueError, match=r"parallel.group = 3 does not divide the 4 layers"):
        sharding.require_samples(layout(group=3), 32, 4)


def test_the_first_axis_that_divides_is_cut_and_never_that_of_layers():
    shape = lambda *n: jax.ShapeDtypeStruct(n, jnp.float32)
    tree = {
        "blocks": {"a": shape(8, 3, 16), "b": shape(8, 8, 8), "c": shape(8, 3)},
        "trunk": {"d": shape(8), "e": shape()},
    }
    cut = {"blocks": {"a": 2, "b": 1, "c": -1}, "trunk": {"d": 0, "e": -1}}
    assert sharding.cuts(layout(), tree) == cut
    assert sharding.cuts(layout(1), tree) == jax.tree.map(lambda _: -1, tree)
    P = PartitionSpec
    specs = {
        "blocks": {"a": P(None, None, "fsdp"), "b": P(None, "fsdp"), "c": P()},
        "trunk": {"d": P("fsdp"), "e": P()},
    }
    assert sharding.specs(layout(), tree, 3) == specs
    none = sharding.specs(layout()._replace(stage=2), tree, 3)
    assert all(spec == P() for spec in jax.tree.leaves(none, is_leaf=lambda leaf: isinstance(leaf, P)))


def test_buckets_hold_what_fits_in_order_and_one_type():
    arrays = [jnp.zeros(n, kind) for n, kind in ((2, "f4"), (3, "f4"), (4, "f4"), (100, "f4"), (1, "f4"), (1, "i4"))]
    assert packing.buckets(arrays, 20) == [[0, 1], [2], [3], [4], [5]]
    assert packing.buckets(arrays, 1000) == [[0, 1, 2, 3, 4], [5]]
    assert packing.buckets(arrays, 0) == [[n] for n in range(6)]
    assert packing.buckets([], 10) == []
