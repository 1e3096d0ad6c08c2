"""Operations and bytes of compiled programs, against what a hand counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxda.benchmarks import counting


def counts_of(function, *shapes, dtype="float32"):
    arguments = [shape if hasattr(shape, "dtype") else jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return counting.counted(jax.jit(function).lower(*arguments).compile())


def test_a_sum_with_a_product():
    found = counts_of(lambda a, b, c: a * b + c, (1000,), (1000,), (1000,))
    assert found.elementwise == 2 * 1000
    assert found.bytes == 4 * 4 * 1000  # three read, one written
    assert found.memory == 4 * 4 * 1000
    assert (found.products, found.fft, found.factors, found.integer, found.open_loops) == (0, 0, 0, 0, 0)
    assert found.devices == 1


def test_a_scan_counts_as_often_as_it_turns_unlike_xla_s_count():
    def function(a):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ a), None), a, length=10)[0]

    found = counts_of(function, (40, 40))
    assert found.products == 10 * 2 * 40**3
    assert found.elementwise == 10 * 40**2
    assert 10 * 3 * 4 * 40**2 <= found.bytes <= 10 * 8 * 4 * 40**2  # two read, one written each turn, some copied
    compiled = jax.jit(function).lower(jnp.ones((40, 40))).compile()
    assert compiled.cost_analysis()["flops"] < 2 * 2 * 40**3


def test_nested_scans_multiply():
    inner = lambda x, _: (jnp.sin(x) * x, None)
    outer = lambda x, _: (jax.lax.scan(inner, x, length=5)[0] + 1.0, None)
    found = counts_of(lambda x: jax.lax.scan(outer, x, length=7)[0], (300,))
    assert found.elementwise == 7 * (5 * 2 + 1) * 300


@pytest.mark.parametrize(
    ("function", "dtype", "shape", "work"),
    [
        (jnp.fft.fft, "complex64", (6, 64), 5 * 6 * 64 * 6),
        (jnp.fft.ifft2, "complex64", (3, 16, 32), 5 * 3 * 512 * 9),
        (jnp.fft.rfft, "float32", (6, 64), 2.5 * 6 * 64 * 6),
        (jnp.fft.rfft2, "float32", (3, 16, 16), 2.5 * 3 * 256 * 8),
        (lambda a: jnp.fft.irfft(a, n=96), "complex64", (5, 49), 2.5 * 5 * 96 * math.log2(96)),
    ],
)
def test_transforms(function, dtype, shape, work):
    assert counts_of(function, shape, dtype=dtype).fft == pytest.approx(work)


def test_factorizations_of_a_batch():
    assert counts_of(jnp.linalg.cholesky, (7, 12, 12)).factors == pytest.approx(7 * 12**3 / 3)
    assert counts_of(jnp.linalg.eigh, (7, 12, 12)).factors == pytest.approx(7 * 9 * 12**3)
    solve = lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True)
    found = counts_of(solve, (12, 12), (12, 40))
    assert found.factors == pytest.approx(12**2 * 40)
    assert found.uncounted == ()


def test_a_library_call_that_is_not_known_is_named():
    found = counts_of(jnp.linalg.eig, (12, 12))
    assert any("geev" in name for name in found.uncounted)


@pytest.mark.parametrize("function", [jnp.sum, lambda a: a.max(0), lambda a: (a * a).sum(1)])
def test_sums_over_elements(function):
    once = 3000 * (2 if function(jnp.ones((2, 1))).shape == (2,) else 1)
    assert once <= counts_of(function, (100, 30)).elementwise <= 1.35 * once  # in windows, the last of which are padded


def test_complex_arithmetic():
    found = counts_of(lambda a, b: a * b + b, (100,), (100,), dtype="complex64")
    assert found.elementwise == 100 * (6 + 2)


def test_integers_and_random_bits_are_apart():
    found = counts_of(lambda a: (a ^ 5) + a, (100,), dtype="uint32")
    assert (found.integer, found.elementwise) == (200, 0)
    key = jax.eval_shape(lambda: jax.random.key(0))
    bits = counts_of(lambda key: jax.random.bits(key, (1000,)), key)
    # threefry-2x32: 20 rounds of an addition, a rotation (two shifts, one or) and an exclusive or; keys and counters
    assert 20 * 5 * 1000 <= bits.integer <= 2.2 * 20 * 5 * 1000
    assert bits.elementwise == 0


def test_a_loop_that_ends_by_its_data_is_told_of():
    found = counts_of(lambda a: jax.lax.while_loop(lambda a: a.sum() < 100.0, lambda a: a * 2.0, a), (50,))
    assert found.open_loops == 1
    assert 2 * 50 <= found.elementwise <= 2.5 * 50


def test_all_devices_together(cpus):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=cpus)
    along = PartitionSpec("x")
    mapped = jax.shard_map(lambda a: a * a, mesh=mesh, in_specs=along, out_specs=along)
    x = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=jax.NamedSharding(mesh, along))
    found = counting.counted(jax.jit(mapped).lower(x).compile())
    assert (found.devices, found.elementwise, found.bytes) == (2, 1000, 8000)


def test_a_step_of_the_model_scales_with_its_steps():
    from jaxda.models import sqg

    model = sqg.SQGConfig(N=16)
    once, more = (counts_of(sqg.make_advance(model, steps), (2, 16, 16)) for steps in (5, 10))
    at_ends = 3 * 5 * 256 * 8 + 2.5 * 512 * 8  # to the packed spectrum and back, and that of the jet, from a real one
    assert more.fft - at_ends == pytest.approx(2 * (once.fft - at_ends))
    assert np.isclose(more.elementwise, 2 * once.elementwise, rtol=0.05)
