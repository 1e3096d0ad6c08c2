"""A plan beside what runs: the same step, compiled for its cost and timed, over processes of this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxda.benchmarks.machine import seconds_of
from jaxda.models import vit
from jaxda.parallel.machine import Machine
from jaxda.parallel.scaling import Seconds, Work, predict
from jaxda.planning import programs
from jaxda.planning.stored import plain_work, work_of
from jaxda.surrogate import SurrogateConfig
from jaxda.training import trainer
from jaxda.training.dataset import Batch


class Timed(NamedTuple):
    """A step that was run: what each device had to do, and its median time [s]."""

    work: Work
    seconds: float


def time_training(config: SurrogateConfig, name: str, samples: int, repeats: int) -> Timed:
    """Compile and run a training step on noise, on the devices of all processes that do this."""
    built = programs.training(config, name, samples)
    work = programs.of_training(built).cost.work
    _, batch, key = built.arguments
    place = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)
    make = lambda: trainer.init_state(config.train, vit.init(jax.random.key(0), config.vit))
    noise = lambda like: jax.random.normal(jax.random.key(1), like.shape)
    kept = [trainer.on_devices(built.layout, make)]
    some = jax.jit(lambda: Batch(noise(batch.x), jnp.full(batch.lead_time.shape, 0.5), noise(batch.y)),
                   out_shardings=place(batch))()  # fmt: skip
    number = jax.jit(lambda: jax.random.key(2), out_shardings=key.sharding)()

    def call():
        kept[0], metrics = built.step(kept[0], some, number)
        return metrics.loss

    return Timed(work._replace(reading=0.0), seconds_of(call, repeats))


def expected(found: Sequence[Timed], machine: Machine) -> list[Seconds]:
    """Times that the model gives the steps of `found`, of which the first says which part of products' rate is reached.

    That part is taken to be the same on all numbers of devices; what they share slows products and steps alike.
    """
    first = found[0]
    reached = first.work.flops / (first.seconds - predict(first.work, machine).communication)
    part = reached / machine.rate(first.work.devices)
    rates = tuple((number, rate * part) for number, rate in machine.rates)
    slowed = Machine(**{name: getattr(machine, name) for name in machine.__dataclass_fields__} | {"rates": rates})
    return [predict(one.work, slowed) for one in found]


def as_text(found: Timed) -> str:
    """One line that `from_text` reads."""
    return json.dumps({"work": plain_work(found.work), "seconds": found.seconds})


def from_text(text: str) -> Timed:
    """What `as_text` wrote, in the last line of an output."""
    tree = json.loads(text.strip().splitlines()[-1])
    return Timed(work_of(tree["work"]), tree["seconds"])
