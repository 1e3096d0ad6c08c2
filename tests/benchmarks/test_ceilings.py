"""Ceilings: what they claim to do they do, and the nearest is the one that takes longest."""

import jax
import numpy as np
import pytest

from jaxda.benchmarks import ceilings, counting
from jaxda.benchmarks.counting import Counts
from jaxda.benchmarks.timing import Run, compiled, timed

NOTHING = dict.fromkeys(("products", "fft", "factors", "elementwise", "integer", "bytes", "memory"), 0.0)


def counts(**given):
    return Counts(**{"devices": 1, "open_loops": 0, "uncounted": ()} | NOTHING | given)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_and_a_transform_have_the_work_that_they_say(monkeypatch, devices, dtype):
    monkeypatch.setattr(ceilings.flops, "SIDES", {"cpu": (32, 64, 128)})
    result = ceilings.product(dtype, devices).call()
    assert result.shape == (devices, 64, 64)
    assert len(result.sharding.device_set) == devices
    run = ceilings.product(dtype, devices)
    assert counting.counted(run.program).products == run.work == devices * 2 * 64**3


@pytest.mark.parametrize("devices", [1, 2])
def test_transforms_are_counted_as_the_programs_are(devices):
    run = ceilings.transform("float32", devices)
    assert counting.counted(run.program).fft == run.work
    assert run.call().dtype == "complex64"


def test_a_copy_passes_over_its_bytes_again_and_again_in_place(monkeypatch):
    monkeypatch.setattr(ceilings, "COPIED", 2**23)
    run = ceilings.copy(2**20, 2)
    assert run.work == 2 * 2**23
    passes = 2**23 // 2**21
    assert np.unique(run.call()).tolist() == [passes]
    assert np.unique(run.call()).tolist() == [2 * passes]
    assert run.call().nbytes == 2 * 2**20


def test_copies_are_of_sizes_that_can_be_timed(monkeypatch):
    monkeypatch.setattr(ceilings, "LARGEST", 2**21)
    monkeypatch.setattr(ceilings, "COPIED", 2**22)
    assert ceilings.copy(1.0).call().nbytes == ceilings.SMALLEST
    assert ceilings.copy(1e12).call().nbytes == 2**21


def test_without_transforms_their_ceiling_is_left_out():
    assert list(ceilings.runs(counts(), "float32")) == ["copy", "product"]
    assert list(ceilings.runs(counts(fft=1.0), "float32")) == ["copy", "product", "FFT"]


@pytest.mark.parametrize(
    ("given", "nearest", "share"),
    [
        ({"bytes": 8.0, "products": 10.0}, "copy", 0.4),
        ({"bytes": 2.0, "products": 60.0, "elementwise": 20.0, "factors": 20.0}, "product", 0.5),
        ({"bytes": 2.0, "fft": 40.0}, "FFT", 1.0),
    ],
)
def test_the_nearest_ceiling_is_the_one_that_takes_longest(given, nearest, share):
    found = ceilings.share_of(counts(**given), 2.0, {"copy": 10.0, "product": 100.0, "FFT": 20.0})
    assert (found.nearest, found.share) == (nearest, pytest.approx(share))


def test_rates_are_of_the_fastest_runs():
    found = ceilings.rates_of({"copy": Run(lambda: None, 1.0, 12.0)}, {"copy": [1.0, 2.0, 100.0]})
    assert found == {"copy": 12.0}


def test_a_run_is_compiled_once_and_counted():
    run = compiled(lambda a: a @ a, jax.numpy.ones((8, 8)), units=4)
    assert counting.counted(run.program).products == 2 * 8**3
    assert (run.call() == 8.0).all()
    (seconds,) = timed({"": run}, 3).values()
    assert len(seconds) == 3
