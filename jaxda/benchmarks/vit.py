"""How fast a surrogate trains and forecasts here: runs to be timed.

Rates are of the convention 6 x parameters x tokens (`training/flops.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from jaxda.benchmarks.timing import Run, compiled, timed
from jaxda.models import vit
from jaxda.models.vit import ViTConfig
from jaxda.parallel import sharding
from jaxda.training import flops, trainer
from jaxda.training.dataset import Batch

#: what `search` tries
REMATS = ("none", "dots", "block")


def _step_of(config: ViTConfig) -> tuple[trainer.TrainConfig, Callable]:
    own = trainer.TrainConfig()
    return own, jax.jit(trainer.make_train_step(own, partial(vit.apply, config)), donate_argnums=0)


def _batch_of(config: ViTConfig, batch: int) -> Batch:
    x = jax.random.normal(jax.random.key(1), (1, batch, config.variables, config.image_size, config.image_size))
    return Batch(x, jnp.full((1, batch), 0.5), x[:, :, None])


def train_step(config: ViTConfig, batch: int) -> Run:
    """One step of the training: forward, backward, clipping, AdamW, moving average; on noise."""
    own, step = _step_of(config)
    make = lambda: trainer.init_state(own, vit.init(jax.random.key(0), config))
    kept, some, key = [trainer.on_devices(sharding.alone(), make)], _batch_of(config, batch), jax.random.key(2)
    program = step.lower(kept[0], some, key).compile()

    def call():
        kept[0], metrics = program(kept[0], some, key)
        return metrics.loss

    return Run(call, 1.0, flops.of_step(config, batch), program)


def forecast(config: ViTConfig, members: int) -> Run:
    """One lead of all members; its work is a third of a training step's."""
    params = jax.jit(lambda: vit.init(jax.random.key(0), config))()
    x = jax.random.normal(jax.random.key(1), (members, config.variables, config.image_size, config.image_size))
    run = compiled(lambda params, x: vit.apply(config, params, x, jnp.full(len(x), 0.5)), params, x)
    return run._replace(work=flops.of_step(config, members) / 3.0)


def rate(config: ViTConfig, batch: int, repeats: int) -> float | None:
    """Median FLOP/s of a training step; None where it does not fit in memory."""
    try:
        run = train_step(config, batch)
        return run.work / statistics.median(timed({"": run}, repeats)[""])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def search(config: ViTConfig, batches: Iterable[int], repeats: int) -> Iterator[tuple[str, int, float | None]]:
    """Remat policy, batch and FLOP/s of all their combinations."""
    for remat, batch in itertools.product(REMATS, batches):
        yield remat, batch, rate(dataclasses.replace(config, remat=remat), batch, repeats)


def grid(
    config: ViTConfig, batch: int, widths: Iterable[int], heads: Iterable[int], ratios: Iterable[float], repeats: int
) -> Iterator[tuple[float, int, int, float | None]]:
    """MLP ratio, heads, width and FLOP/s of all their combinations (Yin et al. 2024, SC24, Fig. 5).

    Raises:
        ValueError: heads that do not divide a width.
    """
    sizes = [{"mlp_ratio": r, "num_heads": h, "embed_dim": w} for r in ratios for h in heads for w in widths]
    for one in [dataclasses.replace(config, **size) for size in sizes]:  # all are checked before the first is run
        yield one.mlp_ratio, one.num_heads, one.embed_dim, rate(one, batch, repeats)
