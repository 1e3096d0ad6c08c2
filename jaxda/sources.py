"""Where the samples of a training come from: a stored series, or the model as the training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxda.models import sqg
from jaxda.models.sqg import SQGConfig
from jaxda.parallel.sharding import Layout
from jaxda.training import dataset, simulator
from jaxda.training.dataset import DataConfig, Series, Statistics


class Source(NamedTuple):
    """What a training asks of its data.

    Attributes:
        series, validation: states that are validated on, and the numbers of those.
        start: a function (report of days made) -> statistics, and the data's own state before the first step.
        batches: a function (statistics, data's state, step) -> iterator from that step on over `accumulate` stacked
            batches and the data's state after them.
        empty: the data's state without its values, or None where the number of the step says all.
    """

    series: Series
    validation: range
    start: Callable[[Callable[[float], None]], tuple[Statistics, Any]]
    batches: Callable[[Statistics, Any, int], Iterator[tuple]]
    empty: Any = None


def mirrors_of(model: SQGConfig, config: DataConfig) -> Sequence[Callable]:
    """The mirrors that samples go through: the model's, where the configuration asks for them."""
    return sqg.mirrored(model) if config.mirror else ()


def stored(
    key, series: Series, config: DataConfig, accumulate: int, layout: Layout, mirrors: Sequence[Callable] = ()
) -> Source:
    """A series split in time, read by a thread while the step before runs; each process reads its samples.

    Raises:
        ValueError: samples that cannot be made.
    """
    parts = dataset.split(series, config)
    dataset.steps_per_epoch(series, config, parts.train)
    _require_validation(series, config, parts.validation)

    def batches(normalisation, _, step):
        number, place = step * accumulate, (jax.process_index(), jax.process_count())
        while True:
            some = [
                dataset.batch_at(key, series, config, parts.train, normalisation, number + i, *place, mirrors)
                for i in range(accumulate)
            ]
            yield layout.placed(layout.batches, jax.tree.map(lambda *leaves: np.stack(leaves), *some)), None
            number += accumulate

    return Source(
        series,
        parts.validation,
        start=lambda report: (dataset.statistics(series, parts.train), None),
        batches=lambda *given: dataset.prefetched(batches(*given)),
    )


def simulated(
    key,
    model: SQGConfig,
    held_out: Series,
    config: DataConfig,
    accumulate: int,
    layout: Layout,
    *,
    size: int,
    days: float,
    seed: int,
) -> Source:
    """A pool of states, spun up for some days, that the model walks on; validated on a run of its own.

    The devices share the work of the model; each has the pool whole.

    Args:
        key: of shifts.
        held_out: a run from another first state than those of the pool.
        size, days, seed: states of the pool, their spin-up [day], the seed of their noise.

    Raises:
        ValueError: samples that cannot be made.
    """
    advance, part = simulator.make_lead(model, config, layout.mesh), range(held_out.count)
    _require_validation(held_out, config, part)
    empty = simulator.empty(model, size, layout.mesh)

    def start(report):
        # the held-out run starts from the seed's own key
        pool = simulator.spun_up(jax.random.fold_in(jax.random.key(seed), 1), model, size, days, report, layout.mesh)
        return dataset.statistics(Series.of(np.asarray(pool.states), config.lead_hours[0]), range(size)), pool

    def batches(normalisation, pool, _):
        one = simulator.make_next(key, advance, size, config, normalisation, mirrors_of(model, config))
        some = lambda pool: jax.lax.scan(lambda pool, _: one(pool), pool, length=accumulate)
        step = jax.jit(some, out_shardings=(layout.everywhere, layout.batches))
        while True:
            pool, some = step(pool)
            yield some, pool

    return Source(held_out, part, start, batches, empty)


def _require_validation(series: Series, config: DataConfig, part: range) -> None:
    least = int(dataset.leads(series, config)[0]) + 1
    if len(part) < least:
        raise ValueError(
            f"data.validation = {config.validation:g}: {len(part)} states to validate on, under the {least} of one "
            "sample; use more of them, or a longer series"
        )
