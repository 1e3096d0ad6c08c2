"""Training samples from the model itself, made on the device where they are used: no files, no copies through the host.

A pool of independent, developed states walks on with every batch, so the data never repeat. The pool is all there is
to know about where the data stand: it goes into the checkpoint (P states, 32 kB each at N = 64), and a run that goes on
from there sees the samples that it would have seen. Walking the pool there anew would cost as much as the simulation
of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxda.models import sqg
from jaxda.models.sqg import SQGConfig
from jaxda.parallel.mesh import over_members
from jaxda.training.dataset import HOURS_PER_DAY, Batch, DataConfig, Statistics


class Pool(NamedTuple):
    """Developed states `(P, V, N, N)` in the unit of the model, and how many batches were made of them `()`."""

    states: Array
    number: Array


def lead_steps(model: SQGConfig, config: DataConfig) -> int:
    """Steps of the model in one lead.

    Raises:
        ValueError: several lead times, or one that is not a multiple of the model's step.
    """
    if len(config.lead_hours) > 1:
        raise ValueError(f"lead_hours = {list(config.lead_hours)}: the simulator makes one; give one")
    steps = config.lead_hours[0] / model.step_hours
    whole = max(1, round(steps))
    if abs(steps - whole) > 1e-6 * steps:
        raise ValueError(
            f"lead_hours = {config.lead_hours[0]:g} is not a multiple of the model's step of {model.step_hours:g} h; "
            f"use {whole * model.step_hours:g}"
        )
    return whole


def make_lead(model: SQGConfig, config: DataConfig, mesh: Mesh | None = None) -> Callable[[Array], Array]:
    """States `(B, 2, N, N)` in m/s, spread over a mesh -> the same one lead later; raises as `lead_steps` does."""
    return over_members(sqg.make_advance(model, lead_steps(model, config)), mesh)


def require_pool(size: int, config: DataConfig) -> None:
    """Raise ValueError where batches do not fill the pool."""
    if size % config.batch:
        whole = -(-size // config.batch) * config.batch
        raise ValueError(f"pool = {size} is not a multiple of batch = {config.batch}; use {whole}")


def empty(model: SQGConfig, size: int, mesh: Mesh | None = None) -> Pool:
    """A pool of zeros: what a checkpoint's is read onto; all devices of a mesh have it whole."""
    return _everywhere(lambda: Pool(jnp.zeros((size, *model.shape), jnp.float32), jnp.zeros((), jnp.int32)), mesh)()


def spun_up(
    key: Array,
    model: SQGConfig,
    size: int,
    days: float,
    report: Callable[[float], None] = lambda days: None,
    mesh: Mesh | None = None,
) -> Pool:
    """A pool of `size` states, each from its own noise, after some days; `report` is told the days made.

    The devices of a mesh share the work, and have the pool whole.
    """
    parts = max(1, math.ceil(days / 5.0))
    steps = round(HOURS_PER_DAY * days / parts / model.step_hours)
    advance = _everywhere(over_members(sqg.make_advance(model, steps), mesh), mesh)
    start = jax.vmap(lambda key: sqg.initial_state(key, model).astype(jnp.float32))
    pool = _everywhere(lambda: Pool(start(jax.random.split(key, size)), jnp.zeros((), jnp.int32)), mesh)()
    for _ in range(parts):
        pool = pool._replace(states=jax.block_until_ready(advance(pool.states)))
        report(days / parts)
    return pool


def _everywhere(function: Callable, mesh: Mesh | None) -> Callable:
    """A function compiled so that all devices of a mesh have its results whole."""
    return jax.jit(function) if mesh is None else jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec()))


def make_next(
    key: Array,
    advance: Callable[[Array], Array],
    size: int,
    config: DataConfig,
    normalisation: Statistics,
    mirrors: Sequence[Callable] = (),
) -> Callable[[Pool], tuple[Pool, Batch]]:
    """A pure function: pool -> pool after its walk, and the batch that it left.

    Each batch takes the `batch` states of the pool that waited longest, so that neighbours in the sequence of one state
    are P/batch steps of the training apart.

    Args:
        advance: states `(B, V, N, N)` -> states one lead later.
        size: number of states in the pool, P.
        mirrors: functions of states, each of which half of the samples go through.

    Raises:
        ValueError: a pool that is not a multiple of the batch.
    """
    require_pool(size, config)
    days, turns = config.lead_hours[0] / HOURS_PER_DAY, size // config.batch

    def next_batch(pool: Pool) -> tuple[Pool, Batch]:
        first = (pool.number % turns) * config.batch
        state = jax.lax.dynamic_slice_in_dim(pool.states, first, config.batch)

        def on(state, _):
            after = advance(state)
            return after, after

        last, after = jax.lax.scan(on, state, length=config.roll_out)
        states = jnp.concatenate([state[:, None], jnp.moveaxis(after, 0, 1)], 1)
        own_key = jax.random.fold_in(key, pool.number)
        if config.shift:
            shifts = jax.random.randint(own_key, (config.batch,), 0, states.shape[-1])
            states = jax.vmap(lambda one, shift: jnp.roll(one, shift, -1))(states, shifts)
        flips = jax.random.bernoulli(jax.random.fold_in(own_key, 1), shape=(len(mirrors), config.batch, 1, 1, 1, 1))
        for mirror, flipped in zip(mirrors, flips):
            states = jnp.where(flipped, mirror(states), states)
        states = normalisation.normalise(states)
        batch = Batch(states[:, 0], jnp.full(config.batch, days, states.dtype), states[:, 1:])
        walked = jax.lax.dynamic_update_slice_in_dim(pool.states, last, first, 0)
        return Pool(walked, pool.number + 1), batch

    return next_batch
