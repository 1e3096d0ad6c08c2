"""Fits of costs, and what a sweep measures."""

import pytest

from jaxda.benchmarks import measuring, stored, sweep
from jaxda.benchmarks.catalogue import BENCHMARKS, Benchmark, Sizes
from jaxda.benchmarks.counting import Counts
from jaxda.benchmarks.timing import Run
from jaxda.models.vit import ViTConfig
from jaxda.output import bench_plots


@pytest.mark.parametrize(("size", "power"), [("members", 1.3), ("N", 1.3 / 2), ("d", 1.3)])
def test_the_power_of_a_law_is_found(size, power):
    seconds = {n: [2.0 * n**1.3] * 3 for n in (16, 32, 128)}
    found, factor = sweep.exponent(size, seconds)
    assert found == pytest.approx(power)
    assert factor * sweep.cost_of(size, 32) ** found == pytest.approx(2.0 * 32**1.3)


def test_medians_are_fitted():
    seconds = {n: [float(n), float(n), 1e6] for n in (1, 2, 4)}
    assert sweep.exponent("d", seconds)[0] == pytest.approx(1.0)


def test_every_size_is_run_as_it_is_asked(monkeypatch):
    asked = []
    make = lambda sizes: asked.append((sizes.N, sizes.vit.image_size, sizes.members)) or Run(lambda: None)
    monkeypatch.setitem(BENCHMARKS, "some", Benchmark(make, ("N",)))
    found = sweep.sweep(["some"], Sizes(members=5, vit=ViTConfig()), "N", [16, 32], 3)
    assert asked == [(16, 16, 5), (32, 32, 5)]
    assert {value: len(seconds) for value, seconds in found["some"].items()} == {16: 3, 32: 3}


def test_the_figure_is_drawn(tmp_path):
    curves = {name: ([10.0, 100.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], (0.4, 0.8)) for name in ("ensf", "letkf")}
    bench_plots.costs(tmp_path / "a.png", curves, "grid points [1]", "title")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_every_benchmark_names_sizes_that_there_are():
    for name, benchmark in BENCHMARKS.items():
        assert set(benchmark.sizes) <= set(sweep.AXES), name
        assert all(hasattr(Sizes(), size) for size in benchmark.sizes)


def test_what_is_measured_without_a_program_has_no_counts(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "some", Benchmark(lambda sizes: Run(lambda: None, 2.0), ()))
    found = measuring.measure("some", Sizes(), 3)
    assert (found.counts, found.share, found.rates, list(found.seconds)) == (None, None, {}, ["jaxda"])


SETTINGS = {"N": 64, "members": 20, "d": 10, "dtype": "float32", "integrator": "euler"}
GOOD = '{"seconds": {"letkf": {"jaxda": [1, 2, 9]}}, "settings": {"N": 64, "members": 20, "d": 10, "dtype": "float32", '
GOOD += '"integrator": "euler"}}'


def test_earlier_medians(tmp_path):
    (tmp_path / "a.json").write_text(GOOD)
    assert stored.medians_of(tmp_path / "a.json", SETTINGS, ["letkf", "ensf"]) == {"letkf": 2.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "holds no times"),
        ("[]", "holds no times"),
        ("{}", "has no 'seconds'"),
        ('{"seconds": {"letkf": {"jaxda": []}}, "settings": {}}', "holds no times"),
        ('{"seconds": {"letkf": {"peer": [1]}}, "settings": {}}', "has no 'jaxda'"),
        ('{"seconds": {"letkf": {"jaxda": ["fast"]}}, "settings": {}}', "holds no times"),
        ('{"seconds": {"letkf": {"jaxda": [1]}}, "settings": {}}', "has no 'N'"),
        (GOOD.replace("64", "32"), "N = 32 there, 64 here; run with the same"),
        (GOOD.replace("letkf", "ensf"), "holds ensf, none of what is asked"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"--compare .*a\.json: ") as raised:
        stored.medians_of(tmp_path / "a.json", SETTINGS, ["letkf"])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_products_and_transforms_have_the_best_rate_of_those_timed_alike():
    def one(devices, dtype, copy, product):
        nothing = dict.fromkeys(("products", "fft", "factors", "elementwise", "integer", "bytes", "memory"), 0.0)
        counts = Counts(devices=devices, open_loops=0, uncounted=(), **nothing)
        rates = {"copy": copy, "product": product}
        return measuring.Measured({"jaxda": [1.0]}, 1.0, counts, rates, None, dtype)

    before = {"a": one(2, "float32", 1.0, 5.0), "b": one(2, "float32", 3.0, 4.0), "c": one(1, "float32", 1.0, 9.0)}
    before |= {"d": one(2, "bfloat16", 1.0, 8.0)}
    found = {name: (some.rates["copy"], some.rates["product"]) for name, some in measuring.with_best(before).items()}
    assert found == {"a": (1.0, 5.0), "b": (3.0, 5.0), "c": (1.0, 9.0), "d": (1.0, 8.0)}
