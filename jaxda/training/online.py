"""A surrogate that learns from what the filter finds, between one analysis and the next forecast.

Nobody knows the truth in the cycle. What there is, at cycle k, for the forecast f(x_{k-1}) from the last analysis mean:

    the observations    mean_j (y_j - h_j(f))^2 / (1/r_j + var h_j)     unbiased, noisy
    the analysis        mean_i (x_k - f)_i^2 / var_i                    smooth, but shrunk towards the forecast

`var` is the forecast ensemble's variance at k: an innovation's variance is that of its error and of the forecast
(Desroziers et al. 2005, QJRMS 131, eq. 1), so each is weighted by what it can tell. The gradient of the second is that
of the increment, K (y - h(f)): the same innovations, with the noise filtered out and the model's error partly so. A
third part, samples of what the surrogate was trained on (`replay`), keeps it from forgetting that; their errors are
divided by the mean of `var`, so that being wrong there weighs as much as being wrong here.

The pairs of the last `window` cycles are kept. Every `hold_every`-th of them no step ever sees: on the latest of those
the guard compares the innovations of the surrogate before and after the steps of a cycle, from the same analyses and
against the same observations, and takes the steps back if they made it worse. What counts is the moving average of the
weights: single steps are noisy, and the forecasts are made with it.

Everything is a pure function of arrays, so that a whole coupled cycle is one `lax.scan`, and the learner, its window
included, is one more part of what the cycle carries and a checkpoint holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import NamedSharding
from pydantic import Field, model_validator

from jaxda.observations import Observation, Operator, cleaned
from jaxda.parallel import sharding
from jaxda.parallel.sharding import Layout, ParallelConfig
from jaxda.settings import Count, NonNegative, Positive, described, settings
from jaxda.shown import in_brief
from jaxda.training import trainer
from jaxda.training.dataset import Statistics
from jaxda.training.loss import Apply, roll_out
from jaxda.training.trainer import TrainConfig, TrainState


@settings
class OnlineConfig:
    """How a surrogate learns in the cycle."""

    steps: Count = described(2, "steps of the optimizer in a cycle [1]")
    batch: Count = described(4, "pairs of analyses in a step, over all devices [1]")
    learning_rate: Positive = described(1e-4, "of Adam [1]")
    ema: Annotated[float, Field(ge=0, lt=1)] = described(0.98, "weight of the old in the average of the weights [1]")
    first: Count = described(10, "cycles before the first steps: the filter has to settle [1]")
    window: Count = described(40, "cycles that are remembered [1]")
    hold_every: Annotated[int, Field(ge=2)] = described(4, "of which one in so many is held out for the guard [1]")
    guard: Count = described(4, "latest of those that decide whether steps are kept [1]")
    analyses: NonNegative = described(0.5, "weight of the analyses in the loss [1]")
    observations: NonNegative = described(1.0, "weight of the observations [1]")
    replay: NonNegative = described(0.1, "weight of offline samples [1]")
    replay_states: Count = described(32, "offline samples that are kept [1]")
    parallel: ParallelConfig = Field(default_factory=ParallelConfig, description="devices of the steps")

    @model_validator(mode="after")
    def _check(self):
        if self.guard * self.hold_every > self.window:
            wrong = f"guard = {self.guard} of every {self.hold_every}th cycle do not fit into window = {self.window}"
            raise ValueError(f"{wrong}; use at least {self.guard * self.hold_every}")
        return self


@settings
class CorrectionConfig(OnlineConfig):
    """How a hybrid's correction learns in the cycle: from nothing, and at little cost, so in more and larger steps."""

    steps: Count = described(8, "steps of the optimizer in a cycle [1]")
    learning_rate: Positive = described(1e-3, "of Adam [1]")
    ema: Annotated[float, Field(ge=0, lt=1)] = described(0.9, "weight of the old in the average of the weights [1]")


class Pair(NamedTuple):
    """One cycle: analysis mean before it, prepared, and at it, the forecast's variance, what was observed; normalised.

    Shapes: start, target, variance `(V, N, N)`; values, precision, spread (the variance of h) `(*values_shape)`.
    """

    start: Array
    target: Array
    variance: Array
    values: Array
    precision: Array
    spread: Array


class Learner(NamedTuple):
    """What is carried from cycle to cycle and kept in checkpoints.

    Attributes:
        train: weights, their average (to forecast with), optimizer.
        offline: the weights that it began with.
        window: the pairs, each leaf `(W, ...)`; `numbers` their cycles `(W,)`, -1 where there is none.
        last: mean of the last analysis `(V, N, N)`, normalised; `when` its cycle `()`, -2 where there was none.
        replay: offline states, prepared, and what became of them, `(R, V, N, N)` each, normalised.
    """

    train: TrainState
    offline: Any
    window: Pair
    numbers: Array
    last: Array
    when: Array
    replay: tuple[Array, Array]

    __repr__ = in_brief


class Learned(NamedTuple):
    """Record of one cycle; NaN while there is nothing to learn from.

    Attributes:
        before, after: mean squared normalised innovation of the held-out cycles, before the steps and after them.
        gain: their difference over the first, positive where the steps helped, kept or not.
        drift: distance of the weights from those offline, over the norm of these.
        rolled_back: 1 where the steps were taken back.
    """

    before: Array
    after: Array
    gain: Array
    drift: Array
    rolled_back: Array

    __repr__ = in_brief


class Task(NamedTuple):
    """What is learned: a surrogate and what it is seen through.

    Attributes:
        apply: (params, x, lead_time, *, keys) -> normalised states one lead later.
        normalisation: of its states; `lead_days` of one lead [day]; `leads` of them make a cycle.
        operator: of the observations, of states in the unit of the model.
        prepare: normalised states `(B, V, N, N)` -> what `apply` takes. Of a hybrid it is the model, which no weight
            changes: it is run once for each pair, not in every step.
    """

    apply: Apply
    normalisation: Statistics
    lead_days: float
    leads: int
    operator: Operator
    prepare: Callable[[Array], Array] = lambda x: x


def train_config(config: OnlineConfig) -> TrainConfig:
    """The optimizer's settings: a constant rate, no decay (the offline weights are where to stay, not zero)."""
    return TrainConfig(
        steps=2**30, warmup=4, learning_rate=config.learning_rate, schedule="constant", weight_decay=0.0, ema=config.ema
    )


def make_layout(config: OnlineConfig, devices: list) -> Layout:
    """The devices of the steps: those of the cycle, all of them.

    Raises:
        ValueError: they do not divide the batch.
    """
    layout = sharding.make_layout(dataclasses.replace(config.parallel, devices=len(devices)), devices)
    if config.batch % layout.mesh.size:
        whole = -(-config.batch // layout.mesh.size) * layout.mesh.size
        raise ValueError(f"batch = {config.batch} does not divide over {layout.mesh.size} devices; use {whole}")
    return layout


def init(config: OnlineConfig, task: Task, params: Any, replay: tuple[Array, Array], layout: Layout) -> Learner:
    """The learner before the first cycle, on the devices of a layout."""
    w, state, values = config.window, task.operator.shape, task.operator.values_shape
    kind = replay[0].dtype

    def make():
        zeros = lambda shape: jnp.zeros((w, *shape), kind)
        window = Pair(*map(zeros, (state, state, state, values, values, values)))
        # of a type that a checkpoint gives back: a Python number would be compiled for once more
        integers = lambda shape, value: jnp.full(shape, value, jnp.int32)
        return window, integers((w,), -1), jnp.zeros(state, kind), integers((), -2)

    everywhere = layout.everywhere
    window, numbers, last, when = jax.jit(make, out_shardings=everywhere)()
    # in a checkpoint and in the steps they are arrays of their own: the cycle may give away what it carries
    own = lambda: trainer.init_state(train_config(config), jax.tree.map(jnp.copy, params))
    train = trainer.on_devices(layout, own)
    offline, replay = jax.device_put((jax.tree.map(jnp.copy, params), replay), everywhere)
    return Learner(train, offline, window, numbers, last, when, replay)


def shardings(layout: Layout, learner: Learner) -> Learner:
    """How a learner (arrays or their shapes) lies on the devices of a layout."""
    of_state = sharding.shardings(layout, trainer.state_specs(layout, learner.train))
    whole = lambda tree: jax.tree.map(lambda _: layout.everywhere, tree)
    return Learner(of_state, *(whole(part) for part in learner[1:]))


def to_forecast(layout: Layout, learner: Learner) -> Any:
    """The weights that forecasts are made with, whole on each device."""
    whole = lambda array: jax.lax.with_sharding_constraint(array, NamedSharding(layout.mesh, sharding.PartitionSpec()))
    return learner.train.average if layout.mesh.size == 1 else jax.tree.map(whole, learner.train.average)


def make_loss(config: OnlineConfig, task: Task, unrolled: bool = False) -> Callable[[Apply], Callable]:
    """apply -> a function (params, (pairs, replay), keys) -> the loss of the module's docstring.

    Args:
        unrolled: of `loss.roll_out`, for weights in parts; a loop compiles in a fifth of the time.
    """

    def of(apply: Apply) -> Callable:
        def loss(params, batch, keys):
            pairs, (x, y) = batch
            days = jnp.full(len(x), task.lead_days, x.dtype)
            forecast = roll_out(apply, params, pairs.start, days, task.leads, unrolled=unrolled)[:, -1]
            parts = innovations(task, forecast, pairs).mean()
            total = config.observations * parts
            if config.analyses:
                total += config.analyses * jnp.mean((forecast - pairs.target) ** 2 / pairs.variance)
            if config.replay:
                off, unit = (apply(params, x, days) - y) ** 2, pairs.variance
                total += config.replay * jnp.mean(off.mean((1, 2, 3)) / unit.mean((1, 2, 3)))
            return total

        return loss

    return of


def innovations(task: Task, forecast: Array, pairs: Pair) -> Array:
    """Mean squared normalised innovation of each forecast `(B, V, N, N)`, over what was observed: `(B,)`."""
    restored = task.normalisation.restore(forecast)
    size = (pairs.values - jax.vmap(task.operator)(restored)) ** 2
    variance = 1.0 / jnp.where(pairs.precision > 0, pairs.precision, 1.0) + pairs.spread
    seen = pairs.precision > 0
    axes = tuple(range(1, size.ndim))
    return jnp.where(seen, size / variance, 0.0).sum(axes) / jnp.maximum(seen.sum(axes), 1)


def remembered(config: OnlineConfig, task: Task, learner: Learner, number, forecast, analysis, observation) -> Learner:
    """The learner with this cycle's pair in its window, in place of the oldest.

    Where the cycle before was not learned from (it had no observations, or is the first) there is no pair: it would
    start from a forecast, or be of two intervals.
    """
    mean = task.normalisation.normalise(analysis.mean(0))
    values, precision = cleaned(observation)
    variance = task.normalisation.normalise(forecast).var(0, ddof=1)
    spread = task.operator(forecast).var(0, ddof=1)
    spread = jnp.where(jnp.isfinite(spread), spread, 0.0)
    # a point where all members agree must not weigh more than all others together
    variance = jnp.maximum(variance, 0.1 * variance.mean())
    pair = Pair(task.prepare(learner.last[None])[0], mean, variance, values, precision, spread)
    slot = number % config.window
    window = jax.tree.map(lambda all, one: all.at[slot].set(one.astype(all.dtype)), learner.window, pair)
    there = jnp.where(learner.when == number - 1, number, -1)
    when, there = (jnp.asarray(one, learner.when.dtype) for one in (number, there))
    return learner._replace(window=window, numbers=learner.numbers.at[slot].set(there), last=mean, when=when)


def make_learn(config: OnlineConfig, task: Task, layout: Layout | None = None) -> Callable:
    """`learn` of `twin.coupled_cycle`, for a `Learner` as its model: remembers the cycle, takes steps, and the guard.

    Args:
        layout: devices of the steps; None: the default one.
    """
    layout = layout or sharding.alone()
    loss = make_loss(config, task, unrolled=layout.stage == 3)
    step = trainer.make_train_step(train_config(config), task.apply, layout, loss)

    def held_out(numbers):
        return numbers % config.hold_every == 0

    def chosen(key, learner):
        """A batch for a step `(1, B, ...)`."""
        key_pairs, key_replay = jax.random.split(key)
        fit = (learner.numbers >= 0) & ~held_out(learner.numbers)
        which = jax.random.choice(key_pairs, config.window, (config.batch,), p=fit / jnp.maximum(fit.sum(), 1))
        again = jax.random.choice(key_replay, len(learner.replay[0]), (config.batch,))
        take = lambda tree, rows: jax.tree.map(lambda array: array[rows][None], tree)
        return take(learner.window, which), take(learner.replay, again)

    def error(params, learner):
        """The guard's: mean squared normalised innovation of the latest held-out cycles, NaN if there are none."""
        age = jnp.where((learner.numbers >= 0) & held_out(learner.numbers), learner.numbers, -1)
        latest, rows = jax.lax.top_k(age, config.guard)
        pairs = jax.tree.map(lambda array: array[rows], learner.window)
        days = jnp.full(config.guard, task.lead_days, pairs.start.dtype)
        forecast = roll_out(task.apply, params, pairs.start, days, task.leads)[:, -1]
        own = jnp.where(latest >= 0, innovations(task, forecast, pairs), 0.0)
        return jnp.where(jnp.any(latest >= 0), own.sum() / jnp.maximum((latest >= 0).sum(), 1), jnp.nan)

    def train(key, learner):
        def one(state, number):
            own = jax.random.fold_in(key, number)
            after, metrics = step(state, chosen(own, learner), own)
            return after, metrics.finite

        moved, finite = jax.lax.scan(one, learner.train, jnp.arange(config.steps))
        before = error(to_forecast(layout, learner), learner)
        after = error(to_forecast(layout, learner._replace(train=moved)), learner)
        kept = finite.all() & (after <= before)
        train = jax.tree.map(partial(jnp.where, kept), moved, learner.train)
        return train, before, after, kept

    def nothing(key, learner):
        nan = jnp.full((), jnp.nan, learner.last.dtype)
        return learner.train, nan, nan, jnp.array(True)

    def learn(key: Array, number: Array, learner: Learner, forecast: Array, analysis: Array, observation: Observation):
        learner = remembered(config, task, learner, number, forecast, analysis, observation)
        state, before, after, kept = jax.lax.cond(number >= config.first, train, nothing, key, learner)
        learner = learner._replace(train=state)
        norm = optax.tree.norm
        away = norm(optax.tree.sub(state.average, learner.offline)) / norm(learner.offline)
        return learner, Learned(before, after, (before - after) / before, away, 1.0 - kept)

    return learn
