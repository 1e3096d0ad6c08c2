"""A program for 8 devices: a tiny ViT trained by each strategy; what it finds goes to standard output as JSON."""

import dataclasses
import json
import os
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ["NPROC"] = "32"
os.environ.pop("JAX_NUM_CPU_DEVICES", None)  # that of the tests' own process

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxda.models import vit
from jaxda.parallel import hlo, sharding
from jaxda.parallel.sharding import ParallelConfig
from jaxda.training import trainer
from jaxda.training.dataset import Batch

KEY = jax.random.key(0)
STEPS = 10
VIT = vit.ViTConfig(
    image_size=8, patch_size=4, embed_dim=16, depth=4, num_heads=2, aggregation="joint", decoder_depth=0,
    residual=True, dropout=0.1, drop_path=0.1, remat="block", positions="relative",
)  # fmt: skip
TRAIN = trainer.TrainConfig(steps=STEPS, warmup=0, learning_rate=1e-3, accumulate=2)
CASES = {
    "ddp": {"strategy": "ddp"},
    "ddp, overlap": {"strategy": "ddp", "overlap": True},
    "zero1": {"strategy": "zero1"},
    "zero2": {"strategy": "zero2"},
    "zero3": {"strategy": "zero3"},
    "zero3, dots": {"strategy": "zero3", "group": 2},
    "zero3, prefetch": {"strategy": "zero3", "prefetch": True},
    "zero2, prefetch": {"strategy": "zero2", "prefetch": True, "group": 2},
    "hybrid_shard": {"strategy": "hybrid_shard", "fsdp": 4},
    "hybrid_shard, overlap": {"strategy": "hybrid_shard", "fsdp": 4, "group": 2, "overlap": True},
}


def batches(step):
    draw = np.random.default_rng(step).normal
    return Batch(draw(size=(2, 16, 2, 8, 8)), np.full((2, 16), 0.5), draw(size=(2, 16, 1, 2, 8, 8)))


def double(tree):
    """Also what is made in single precision: rounding must not hide an error."""
    return jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, tree)


def run(layout, config=VIT):
    """State, losses and the compiled step after STEPS steps."""
    state = trainer.on_devices(layout, lambda: double(trainer.init_state(TRAIN, vit.init(KEY, config))))
    step = trainer.make_train_step(TRAIN, partial(vit.apply, config), layout)
    compiled = jax.jit(step, donate_argnums=0).lower(state, layout.placed(layout.batches, batches(0)), KEY).compile()
    gradients = gradient_bytes(step, state, batches(0))
    losses = []
    for number in range(STEPS):
        state, metrics = compiled(state, layout.placed(layout.batches, batches(number)), KEY)
        losses.append(float(metrics.loss))
    return state, losses, compiled.as_text(), gradients


def gradient_bytes(step, state, some):
    """Bytes of what the scan over a step's batches adds up, on one device, without the loss."""
    spread = next(e for e in jax.make_jaxpr(step)(state, some, KEY).eqns if e.primitive.name == "shard_map")
    scans = [e for e in spread.params["jaxpr"].eqns if e.primitive.name == "scan"]
    scan = next(e for e in scans if e.params["length"] == TRAIN.accumulate)
    return sum(v.aval.size * v.aval.dtype.itemsize for v in scan.outvars[1:])


def main():
    jax.config.update("jax_enable_x64", True)
    alone, losses, program, _ = run(sharding.alone())
    expected = jax.tree.map(np.asarray, (alone.params, alone.average))
    found = {"alone": {"losses": losses, "collectives": hlo.collectives(program)}}
    for name, given in CASES.items():
        layout = sharding.make_layout(ParallelConfig(devices=8, **given))
        config = dataclasses.replace(VIT, remat="dots") if "dots" in name else VIT
        state, losses, program, gradients = run(layout, config)
        own = lambda tree: sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(tree))
        pairs = zip(*map(jax.tree.leaves, ((state.params, state.average), expected)), strict=True)
        found[name] = {
            "losses": losses,
            "error": max(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs),
            "collectives": [one._asdict() for one in hlo.collectives(program)],
            "bytes": {
                "weights": own(state.params),
                "gradients": gradients,
                "optimizer": own(state.optimizer),
                "average": own(state.average),
            },
        }
    whole = sum(a.nbytes for a in jax.tree.leaves(expected[0]))
    layers = sum(a.nbytes for a in jax.tree.leaves(expected[0]["blocks"]))
    uncut = expected[0]["blocks"]["bias"].nbytes
    json.dump({"cases": found, "whole": whole, "layers": layers, "uncut": uncut}, sys.stdout)


if __name__ == "__main__":
    main()
