"""The cost of the real training step and the real analyses on devices that need not exist.

Both are built from their settings as the scripts build them, over a mesh of as many devices as this process was told to
have, and compiled for abstract arrays: nothing is allocated, nothing is run (`parallel.cost`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxda import experiment, observations
from jaxda.config import ExperimentConfig
from jaxda.filters.baselines import Climate
from jaxda.models import vit
from jaxda.models.vit import ViTConfig
from jaxda.parallel import cost, sharding
from jaxda.parallel.cost import Cost
from jaxda.parallel.mesh import member_mesh
from jaxda.parallel.sharding import Layout
from jaxda.surrogate import SurrogateConfig
from jaxda.training import trainer
from jaxda.training.dataset import Batch


class Half(ViTConfig):
    """A transformer whose 16-bit activations are of the other 16-bit type.

    A CPU's compiler turns bfloat16 into float32 even where it is only sent; float16 it leaves. Both are as large.
    """

    @property
    def dtype(self):
        """float16 for bfloat16."""
        return jnp.dtype("float16") if self.compute == "bfloat16" else super().dtype


class Plan(NamedTuple):
    """A cost, and what it is of.

    Attributes:
        name: strategy or filter.
        samples: states that one device takes in one call: of a batch, or members.
        cost: of one device.
        parts: bytes of what is kept from call to call on one device, by what it is.
        gradients: bytes of the gradients on one device, which are temporaries; 0 of an analysis.
        side: grid points along a side; 0 of an analysis.
    """

    name: str
    samples: float
    cost: Cost
    parts: dict[str, int]
    gradients: int
    side: int = 0

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on one device by kind. What no name is known for is of activations and of the compiler's copies."""
        memory = self.cost.memory
        rest = {
            "batch and others": memory.arguments - sum(self.parts.values()),
            "gradients": min(self.gradients, memory.temporaries),
            "activations and copies": max(memory.temporaries - self.gradients, 0),
            "results": memory.results,
        }
        return self.parts | rest


class Training(NamedTuple):
    """A training step, jitted, and its arguments as abstract arrays with shardings: state, batches, key."""

    step: Callable
    arguments: tuple
    layout: Layout
    config: SurrogateConfig


def training(config: SurrogateConfig, name: str, samples: int = 1, node: int = 8, group: int | None = None) -> Training:
    """A training step on all devices, each with so many samples of every batch.

    Args:
        name: a strategy, and "+overlap" for gradients that are reduced within the backward loop.
        node: devices that share a copy of the weights where the strategy has copies.
        group: layers that travel together; the configuration's where left out.

    Raises:
        ValueError: settings that do not fit the devices.
    """
    devices = jax.device_count()
    strategy, plus, _ = name.partition("+")
    own = config.parallel
    asked = {"strategy": strategy, "devices": devices, "overlap": bool(plus), "group": group or own.group}
    own = dataclasses.replace(own, **asked, fsdp=min(node, devices) if strategy == "hybrid_shard" else None)
    half = Half(**dataclasses.asdict(config.vit))
    layout = sharding.make_layout(own)
    sharding.require_samples(layout, samples * devices, half.depth)
    shapes = jax.eval_shape(lambda: trainer.init_state(config.train, vit.init(jax.random.key(0), half)))
    state = _with(sharding.shardings(layout, trainer.state_specs(layout, shapes)), shapes)
    shape = (config.train.accumulate, samples * devices)
    fields = (half.variables, half.image_size, half.image_size)
    given = lambda *more: jax.ShapeDtypeStruct((*shape, *more), jnp.float32, sharding=layout.batches)
    batch = Batch(given(*fields), given(), given(config.data.roll_out, *fields))
    step = jax.jit(trainer.make_train_step(config.train, partial(vit.apply, half), layout), donate_argnums=0)
    return Training(step, (state, batch, _key(layout.everywhere)), layout, dataclasses.replace(config, parallel=own))


def of_training(built: Training) -> Plan:
    """The plan of a training step."""
    (state, batch, _), layout, config = built.arguments, built.layout, built.config
    accumulate, every = batch.x.shape[:2]
    samples = accumulate * every / layout.mesh.size
    found = cost.of(built.step, *built.arguments, devices=layout.mesh.size)
    reading = samples * _bytes_read(config) if config.series.source == "series" else 0.0
    found = found._replace(work=found.work._replace(reading=reading))
    parts = {
        "parameters": cost.shard_bytes(state.params),
        "optimizer": cost.shard_bytes(state.optimizer),
        "moving average": cost.shard_bytes(state.average),
    }
    cut = _with(sharding.shardings(layout, sharding.specs(layout, state.params, 2)), state.params)
    own = config.parallel
    name = f"{own.strategy}{'+overlap' * own.overlap}{f', group {own.group}' * (own.group > 1)}"
    return Plan(name, samples, found, parts, cost.shard_bytes(cut), config.vit.image_size)


def _bytes_read(config: SurrogateConfig) -> float:
    """Of one sample: its first state and the later ones, in single precision."""
    return 4.0 * config.vit.variables * config.vit.image_size**2 * (1 + config.data.roll_out)


def of_analysis(config: ExperimentConfig, name: str, members: int = 1) -> Plan:
    """The plan of one analysis of a filter of an experiment on all devices, each with so many members.

    Raises:
        ValueError: settings that do not fit.
    """
    devices = jax.device_count()
    total = members * devices
    filters = {name: dataclasses.replace(_bounded(config.filters[name]), members=total)}
    config = dataclasses.replace(config, filters=filters)
    shape, dtype = config.model.shape, jnp.dtype(config.precision)
    operator = observations.make_operator(config.observations, shape, config.kelvin)
    observe = observations.make_network(config.observations, operator, dtype=config.precision)
    analysis = experiment.make_filter(
        config, name, operator, Climate(jnp.zeros(shape), jnp.ones(shape), jnp.zeros((2, *shape)))
    )
    mesh = member_mesh(total)
    whole, along = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("member")))
    ensemble = jax.ShapeDtypeStruct((total, *shape), dtype, sharding=along)
    seen = jax.eval_shape(observe, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))
    seen = _with(jax.tree.map(lambda _: whole, seen), seen)
    step = jax.jit(analysis, donate_argnums=1, out_shardings=along)
    found = cost.of(step, _key(whole), ensemble, seen, devices=devices, through_memory=True)
    return Plan(name, members, found, {"members": cost.shard_bytes(ensemble)}, 0)


def _bounded(settings):
    """Without a rule that ends a path early, whose loop turns nobody knows how often: this is the most there can be."""
    return dataclasses.replace(settings, tolerance=0.0) if hasattr(settings, "tolerance") else settings


def _with(placed, shapes):
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, placed
    )


def _key(where: NamedSharding):
    shape = jax.eval_shape(partial(jax.random.key, 0))
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)
