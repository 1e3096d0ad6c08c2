"""A scan over groups of layers that communicates for one group while it computes another.

In the turn of group i the forward loop gathers the weights of group i + 1; the backward loop gathers those of group
i - 1 and sends the gradient of group i + 1. Neither needs what the turn computes, nor the other way round, so that a
device can do both at once. The price is memory for the weights of one more group and the gradient of one, and two
messages: the first turn of the backward loop sends zeros, its last gathers what nobody uses.

What a group computes is done again in the backward pass, from its input: a derivative through the loops above would
keep all weights that were gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxda.parallel.packing import in_turn
from jaxda.parallel.sharding import LAYERS, Whole


def scan_ahead(whole: Whole, body: Callable[[Array, Any, Any], Array], x: Array, kept: Any, rest: Any) -> Array:
    """x after `body(x, weights, rest)` of each group in order.

    Args:
        body: x, whole weights of a group and what else it needs -> x.
        kept: weights of all groups as they are kept, each with a leading axis of groups.
        rest: what else, with the same axis; no derivative is taken of it.
    """
    count = jax.tree.leaves(kept)[0].shape[0]
    numbers = jnp.arange(count)

    def group(kept, number):
        number = jnp.clip(number, 0, count - 1)
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, number, 0, False), kept)

    def gathered(kept, number):
        return whole.gather(LAYERS, group(kept, number))

    def forward(x, kept, rest):
        def turn(carry, given):
            x, now = carry
            number, own = given
            following = gathered(kept, number + 1)
            return (body(x, now, own), following), x

        # after the last turn `following` is the last group once more: what the backward pass begins with
        (x, last), inputs = jax.lax.scan(turn, (x, whole.gather(LAYERS, in_turn(group(kept, 0), x))), (numbers, rest))
        return x, (inputs, last, kept, rest)

    def backward(saved, change):
        inputs, last, kept, rest = saved

        def turn(carry, given):
            change, now, waiting = carry
            number, x, own = given
            sent = whole.scatter(LAYERS, waiting)
            following = gathered(kept, number - 1)
            change, gradient = jax.vjp(lambda x, now: body(x, now, own), x, now)[1](change)
            return (change, following, gradient), sent

        start = (change, last, jax.tree.map(jnp.zeros_like, last))
        (change, _, waiting), sent = jax.lax.scan(turn, start, (numbers, inputs, rest), reverse=True)
        first = whole.scatter(LAYERS, waiting)
        # turn i sent the gradient of group i + 1
        own = jax.tree.map(lambda a, later: jnp.concatenate([a[None], later[:-1]]), first, sent)
        return in_turn(change, first), whole.kept(own), None

    run = jax.custom_vjp(lambda x, kept, rest: forward(x, kept, rest)[0])
    run.defvjp(forward, backward)
    return run(x, kept, rest)
