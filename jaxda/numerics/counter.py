"""Random numbers as a function of where they stand: no state, no array of keys, any part of a field by itself.

`normals(key, step, index)` needs nothing but whole numbers, so a loop makes them where it uses them, in registers, and
a field's values are the same however it is cut into blocks or spread over devices. Two words from Threefry-2x32 (Salmon
et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11; the generator under jax.random) make two normals by
the transform of Box & Muller (1958, Ann. Math. Stat. 29, 610-611):

    r = sqrt(-2 log u),   r cos(2 pi v)  and  r sin(2 pi v).

They are those of two successive steps at the same place. u = (word + 1)/2^32 reaches 2^-32, so the tail ends at 6.7
standard deviations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.numerics.elementary import sine_and_cosine

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
#: its authors' search for rotations ends with every bit of the input felt by all of the output after 8 rounds; they and
#: jax.random take 20, as a margin, which costs the loops here 1.4 to 3 times as much (docs/benchmarks.md)
ROUNDS = 13
PARITY = np.uint32(0x1BD11BDA)


def words_of(key: Array) -> Array:
    """The two words `(2,)` of a key of jax.random."""
    words = jax.random.key_data(key)
    return jnp.stack([words[0], words[-1]])


def threefry(words: Array, x0: Array, x1: Array, rounds: int = ROUNDS) -> tuple[Array, Array]:
    """Two words for each counter (x0, x1), all uint32, the key entering every four rounds (Salmon et al., Sec. 3.3)."""
    schedule = (words[0], words[1], words[0] ^ words[1] ^ PARITY)
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for number in range(1, rounds + 1):
        turn, place = divmod(number - 1, 4)
        by = ROTATIONS[turn % 2][place]
        x0 = x0 + x1
        x1 = ((x1 << by) | (x1 >> (32 - by))) ^ x0
        if place == 3:
            x0 = x0 + schedule[(turn + 1) % 3]
            x1 = x1 + schedule[(turn + 2) % 3] + np.uint32(turn + 1)
    return x0, x1


def normal_pair(words: Array, pair: Array, index: Array) -> tuple[Array, Array]:
    """Independent standard normals, float32, of the steps 2 `pair` and 2 `pair` + 1 at the places `index`.

    Args:
        words: of a key, by `words_of`.
        pair: a whole number below 2^32; index: places, uint32, of any shape.
    """
    a, b = threefry(words, index, jnp.broadcast_to(jnp.asarray(pair).astype(jnp.uint32), index.shape))
    u = (a.astype(jnp.float32) + 1.0) * np.float32(2.0**-32)
    radius = jnp.sqrt(-2.0 * jnp.log(u))
    sine, cosine = sine_and_cosine(b)
    return radius * cosine, radius * sine


def normals(words: Array, step: Array, index: Array) -> Array:
    """Standard normals, float32, of one step at the places `index`; see `normal_pair`."""
    even, odd = normal_pair(words, jnp.asarray(step) // 2, index)
    return jnp.where(jnp.asarray(step) % 2 == 0, even, odd)
