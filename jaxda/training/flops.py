"""How much arithmetic a training does, and how much of it the device could do.

Two numbers:

* `of_step`, 6 x parameters x tokens: two operations for each weight and token forward and four backward (Kaplan et al.
  2020, "Scaling laws for neural language models", Sec. 2.1; Yin et al. 2024, SC24, count so too). Every published
  figure is this, so it is the one shown. It leaves out the products of attention's tokens with each other and what
  rematerialisation computes again, and counts tables of positions, the head's and the embedding's weights as if each
  token met them, which is nearly so here.
* `product_rate`, what a plain matrix product of the same type reaches on this device. The share of it that the first
  count reaches is the model FLOP utilisation, MFU (Chowdhery et al. 2022, "PaLM", App. B, where the peak is the
  vendor's: ours is lower, and shares of it are higher).
"""

from __future__ import annotations

import time
from functools import lru_cache

import jax

from jaxda.models import vit
from jaxda.models.vit import ViTConfig

#: sides of the matrices that are multiplied, by platform; what is not here is an accelerator
SIDES = {"cpu": (512, 1024, 2048)}
LARGE_SIDES = (4096, 8192)


def of_step(config: ViTConfig, images: int) -> float:
    """Floating-point operations of a training step on a number of images, 6 x parameters x tokens.

    A roll-out of k leads passes the model k times: its images count k times.
    """
    return 6.0 * vit.count_parameters(config) * config.tokens * images


@lru_cache
def product_rate(dtype: str = "float32", limit: float = 0.8) -> float:
    """Largest rate of plain matrix products on the default device [FLOP/s], measured once in a process.

    Products of growing size are timed until the next would exceed the limit [s]. A CPU's rate depends on what else
    runs there.
    """
    began, best = time.perf_counter(), 0.0
    product = jax.jit(lambda a, b: a @ b)
    for side in SIDES.get(jax.default_backend(), LARGE_SIDES):
        work = 2.0 * side**3
        if best and time.perf_counter() - began + 5 * work / best > limit:
            break
        a = jax.random.normal(jax.random.key(0), (side, side), dtype)
        jax.block_until_ready(product(a, a))
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(product(a, a))
            best = max(best, work / (time.perf_counter() - start))
    return best


def rates(samples: int, work: float, seconds: float, peak: float) -> dict[str, float]:
    """Of a stretch of steps: samples a second, TFLOP/s, and their share of the device's products [1]."""
    seconds = max(seconds, 1e-9)
    return {"samples_per_second": samples / seconds, "tflops": work / seconds / 1e12, "mfu": work / seconds / peak}


def in_words(found: dict[str, float]) -> str:
    """Rates for a progress bar."""
    return f"{found['samples_per_second']:.3g} samples/s, {found['tflops']:.3g} TFLOP/s, MFU {100 * found['mfu']:.0f} %"
