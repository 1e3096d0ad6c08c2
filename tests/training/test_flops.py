"""Counting: the convention, what XLA says, rates and their share of a product."""

import jax
import jax.numpy as jnp
import pytest

from jaxda.models.vit import ViTConfig
from jaxda.training import flops


def test_six_operations_for_each_parameter_and_token():
    # the published model at 64 x 64 (157 789 216 parameters) on 8 images of 256 tokens
    assert flops.of_step(ViTConfig(), 8) == 6 * 157_789_216 * 256 * 8


def test_the_compiler_counts_a_product():
    found = flops.compiled(jax.jit(jnp.dot), jnp.ones((30, 40)), jnp.ones((40, 50)))
    assert found == pytest.approx(2 * 30 * 40 * 50, rel=0.1)


def test_the_compiler_counts_loops_once():
    """The trap that the docstring names: whoever fixes it there has to change it here."""
    looped = jax.jit(lambda a: jax.lax.scan(lambda a, _: (a @ a, None), a, length=10)[0])
    assert flops.compiled(looped, jnp.ones((40, 40))) < 3 * 2 * 40**3


def test_the_rate_of_products_is_measured_once_and_fast():
    flops.product_rate.cache_clear()
    rate = flops.product_rate("float32", limit=0.05)
    assert rate > 1e8
    assert flops.product_rate("float32", limit=0.05) == rate
    assert flops.product_rate.cache_info().hits == 1
    flops.product_rate.cache_clear()


def test_rates():
    found = flops.rates(samples=80, work=3e12, seconds=2.0, peak=4e12)
    assert found == {"samples_per_second": 40.0, "tflops": 1.5, "mfu": 0.375}
    assert flops.in_words(found) == "40 samples/s, 1.5 TFLOP/s, MFU 38 %"
