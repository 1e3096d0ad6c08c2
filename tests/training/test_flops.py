"""Counting: the convention, what XLA says, rates and their share of a product."""

from jaxda.models.vit import ViTConfig
from jaxda.training import flops


def test_six_operations_for_each_parameter_and_token():
    # the published model at 64 x 64 (157 789 216 parameters) on 8 images of 256 tokens
    assert flops.of_step(ViTConfig(), 8) == 6 * 157_789_216 * 256 * 8


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
