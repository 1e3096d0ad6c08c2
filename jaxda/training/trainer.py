"""The training step: AdamW on a loss, with what keeps long runs out of trouble.

AdamW (Loshchilov & Hutter 2019, ICLR, alg. 2) with a linear warm-up and a cosine to zero, gradients clipped by their
global norm, gradients of several batches added up, an exponential moving average of the weights (the one to forecast
with), and no weight decay of what is no matrix: biases, norms, embeddings.

A step whose loss or gradients are not finite changes nothing: the caller sees `finite` false, stops, and still has
the state from before it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from pydantic import Field, model_validator

from jaxda import diagnostics
from jaxda.parallel import sharding
from jaxda.parallel.sharding import Layout
from jaxda.settings import Count, Fraction, NonNegative, Positive, Seed, described, settings
from jaxda.shown import in_brief
from jaxda.training.loss import Apply, make_loss, roll_out


@settings
class TrainConfig:
    """Settings of the optimizer and the run."""

    steps: Count = described(1000, "steps of the optimizer [1]")
    warmup: Annotated[int, Field(ge=0)] = described(100, "steps of them until the learning rate is reached [1]")
    learning_rate: Positive = described(5e-4, "largest learning rate [1]")
    schedule: Literal["cosine", "constant"] = described("cosine", "what it does after the warm-up")
    weight_decay: NonNegative = described(0.01, "decay of matrices, times the learning rate [1]")
    clip: Positive = described(1.0, "largest global norm of the gradients [1]")
    accumulate: Count = described(1, "batches to a step [1]")
    ema: Fraction = described(0.999, "weight of the old in the moving average of the weights [1]")
    spectral_weight: NonNegative = described(0.0, "of the spectral loss [1]")
    validate_every: Count = described(200, "steps between validations and checkpoints [1]")
    log_every: Count = described(10, "steps between points of the loss in TensorBoard [1]")
    validation_leads: Count = described(4, "leads of the roll-outs that are validated [1]")
    validation_batches: Count = described(8, "batches of them [1]")
    patience: Count | None = described(None, "validations without a better one after which to stop; none: never [1]")
    seed: Seed = described(0, "of weights, order, shifts and dropout [1]")

    @model_validator(mode="after")
    def _check(self):
        if self.warmup >= self.steps:
            raise ValueError(f"warmup = {self.warmup} is not under steps = {self.steps}; use less")
        return self


class TrainState(NamedTuple):
    """What a checkpoint holds: step `()`, weights, their moving average, the optimizer's arrays."""

    step: Array
    params: Any
    average: Any
    optimizer: Any

    __repr__ = in_brief


class Metrics(NamedTuple):
    """Of one step: loss, norm of the gradients before clipping, learning rate, whether all was finite."""

    loss: Array
    gradient_norm: Array
    learning_rate: Array
    finite: Array


def decayed(params) -> Any:
    """Which arrays weight decay acts on: the matrices of linear layers."""
    is_matrix = lambda path, _: getattr(path[-1], "key", None) == "kernel"
    return jax.tree_util.tree_map_with_path(is_matrix, params)


def schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate by step: up in a line, then as it is or down in a cosine."""
    if config.schedule == "constant":
        return optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup, config.steps)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with the decay mask; element by element, so it serves parts of arrays as well."""
    return optax.adamw(schedule(config), b1=0.9, b2=0.99, weight_decay=config.weight_decay, mask=decayed)


def init_state(config: TrainConfig, params) -> TrainState:
    """The state before the first step."""
    # its own arrays: a step donates its state, and no array may be given away twice
    average = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, average, make_optimizer(config).init(params))


def state_specs(layout: Layout, state: TrainState) -> TrainState:
    """How a state `(arrays or their shapes)` is cut over the devices of a layout."""
    cut = lambda tree, stage: sharding.specs(layout, tree, stage)
    return TrainState(PartitionSpec(), cut(state.params, 3), cut(state.average, 1), cut(state.optimizer, 1))


def on_devices(layout: Layout, make: Callable[[], TrainState]) -> TrainState:
    """A state made on the devices of a layout, each its parts: it need not fit on one of them."""
    specs = state_specs(layout, jax.eval_shape(make))
    return jax.jit(make, out_shardings=sharding.shardings(layout, specs))()


def make_train_step(
    config: TrainConfig, apply: Apply, layout: Layout | None = None, of: Callable[[Apply], Callable] | None = None
) -> Callable:
    """A pure function (state, batches, key) -> (state, Metrics), on the devices of a layout; None: on the default one.

    `batches` is a `dataset.Batch` with one leading axis of `accumulate`, whose gradients are averaged; each device has
    its part of every batch. The key is that of the whole training: the step folds its number in, and each sample its
    own, so that the numbers do not depend on the devices.

    Args:
        of: apply -> another loss (params, batch, keys) than that of roll-outs, a mean over the samples; its batches are
            any arrays whose two leading axes are those.
    """
    layout = layout or sharding.alone()
    of = of or partial(make_loss, spectral_weight=config.spectral_weight)
    optimizer, rate = make_optimizer(config), schedule(config)
    cut_state = 1 <= layout.stage < 3  # the optimizer has parts of weights that are whole

    def one_device(cuts, state: TrainState, batches, key: Array) -> tuple[TrainState, Metrics]:
        value, gradient = mean_gradient(cuts, state, batches, jax.random.fold_in(key, state.step))
        value, norm = sharding.mean_and_norm(layout, cuts, value, gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        gradient = jax.tree.map(lambda g: jnp.where(norm < config.clip, g, g / norm * config.clip), gradient)
        if layout.stage == 1:
            gradient = sharding.own_parts(layout, cuts, gradient)
        before = sharding.own_parts(layout, cuts, state.params) if cut_state else state.params
        updates, after = optimizer.update(gradient, state.optimizer, before)
        params = optax.apply_updates(before, updates)
        # the average of a young run would be its random start: 1/step until that is less than what is asked
        part = jnp.maximum(1.0 - config.ema, 1.0 / (state.step + 1.0))
        average = optax.incremental_update(params, state.average, part)
        moved = TrainState(state.step + 1, params, average, after)
        # each of the type that it had, also where a loss in double precision is of weights in single
        keep = lambda new, old: jnp.where(finite, new, old).astype(old.dtype)
        kept = jax.tree.map(keep, moved, state._replace(params=before))
        if cut_state:
            kept = kept._replace(params=sharding.joined_parts(layout, cuts, kept.params))
        return kept, Metrics(value, norm, rate(state.step), finite)

    def mean_gradient(cuts, state: TrainState, batches, key: Array):
        """Loss of this device's samples, and the gradient of all: whole, or from stage 2 on this device's parts."""
        whole = sharding.make_whole(layout, cuts)
        loss = of(partial(apply, whole=whole, group=layout.group) if whole else apply)
        samples = jax.tree.leaves(batches)[0].shape[1]
        numbers = jax.lax.axis_index(sharding.AXES) * samples + jnp.arange(samples)
        parts = sharding.own_parts(layout, cuts, state.params) if layout.stage == 2 else state.params
        nothing = jax.tree.map(jnp.zeros_like, parts)

        def add(total, item):
            number, batch = item
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, number), numbers)
            if layout.stage == 2:
                of_parts = lambda own: loss(sharding.with_parts(state.params, own), batch, keys)
                found = jax.value_and_grad(of_parts)(nothing)
            else:
                found = jax.value_and_grad(loss)(state.params, batch, keys)
            return jax.tree.map(lambda a, b: a + b / config.accumulate, total, found), None

        every = (jnp.arange(config.accumulate), batches)
        (value, gradient), _ = jax.lax.scan(add, (jnp.zeros(()), nothing), every)
        return value, jax.tree.map(lambda g: g / layout.mesh.size, sharding.summed(layout, cuts, gradient))

    def train_step(state: TrainState, batches, key: Array) -> tuple[TrainState, Metrics]:
        of_state, everywhere = state_specs(layout, state), PartitionSpec()
        spread = jax.shard_map(
            partial(one_device, sharding.cuts(layout, state.params)),
            mesh=layout.mesh,
            in_specs=(of_state, PartitionSpec(None, *layout.samples), everywhere),
            out_specs=(of_state, everywhere),
            check_vma=False,
        )
        return spread(state, batches, key)

    return train_step


class Skill(NamedTuple):
    """By lead, `(k,)` each: RMSE of forecast and persistence in the unit asked, and anomaly correlation."""

    rmse: Array
    persistence: Array
    correlation: Array


def make_validation(apply: Apply, scale: Array, mesh: Mesh | None = None) -> Callable:
    """A function (params, batch) -> `Skill` of the roll-out from the batch.

    `scale` `(V, 1, 1)` turns normalised values into the unit of the scores. Anomalies are from the training mean, which
    is zero in normalised units: a climatological forecast has correlation zero, and the states' standard deviation for
    its RMSE. On a mesh each device forecasts its samples with weights that all have whole.
    """

    def validate(params, batch) -> Skill:
        run = lambda params, x, lead_time: roll_out(apply, params, x, lead_time, batch.y.shape[1])
        if mesh is not None:
            cut = PartitionSpec(mesh.axis_names)
            run = jax.shard_map(run, mesh=mesh, in_specs=(PartitionSpec(), cut, cut), out_specs=cut, check_vma=False)
        forecast = run(params, batch.x, batch.lead_time)
        by_lead = lambda score, x: jax.vmap(lambda a, b: score(a, b), (1, 1))(x, batch.y)
        stay = jnp.broadcast_to(batch.x[:, None], batch.y.shape)
        rmse = lambda a, b: diagnostics.rmse(a * scale, b * scale)
        return Skill(by_lead(rmse, forecast), by_lead(rmse, stay), by_lead(diagnostics.anomaly_correlation, forecast))

    return validate
