"""Random numbers by counter: the published generator, the normal distribution, independence of neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxda.numerics import counter

WORDS = counter.words_of(jax.random.key(7))
N = 1 << 18
PLACES = jnp.arange(N, dtype=jnp.uint32)
normals = jax.jit(counter.normals)


@pytest.mark.parametrize(
    ("key", "block", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_generator_gives_the_known_answers_of_its_authors(key, block, expected):
    word = lambda x: jnp.asarray(x, jnp.uint32)
    found = counter.threefry(jnp.stack([word(k) for k in key]), *map(word, block), rounds=20)
    assert tuple(map(int, found)) == expected


@pytest.fixture(scope="module")
def draws():
    """Steps 0, 1, 2 and 3 at N places."""
    return np.stack([np.asarray(normals(WORDS, step, PLACES), float) for step in range(4)])


def test_moments_and_distribution_are_normal(draws):
    x = draws.ravel()
    n = len(x)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4.5 * np.sqrt(variance / n)
    assert stats.kstest(x, "norm").pvalue > 1e-4
    assert stats.kstest(x[np.abs(x) > 2], lambda t: tail(t, 2.0)).pvalue > 1e-4
    assert 4.5 < np.abs(x).max() < 6.7


def tail(t, least):
    """Distribution of a normal, given that it is over `least` in absolute value."""
    inside = stats.norm.cdf(least) - stats.norm.cdf(-least)
    below = stats.norm.cdf(np.minimum(t, -least))
    return (below + np.maximum(stats.norm.cdf(t) - stats.norm.cdf(least), 0.0)) / (1.0 - inside)


def test_neighbours_in_place_step_and_key_are_independent(draws):
    other = np.asarray(normals(counter.words_of(jax.random.key(8)), 0, PLACES), float)
    pairs = [(draws[0], draws[step]) for step in (1, 2, 3)] + [(draws[1], draws[2]), (draws[0], other)]
    pairs += [(draws[0, :-by], draws[0, by:]) for by in (1, 2, 7, 4096)]
    for one, two in pairs:
        for power in (1, 2):
            correlation = np.corrcoef(one**power, two**power)[0, 1]
            assert abs(correlation) < 4.5 / np.sqrt(len(one))


def test_a_part_is_what_the_whole_has_there(draws):
    part = normals(WORDS, 3, PLACES[1000:1100])
    np.testing.assert_array_equal(np.asarray(part, float), draws[3, 1000:1100])
    pair = counter.normal_pair(WORDS, 1, PLACES[:50])
    np.testing.assert_allclose(pair, draws[2:, :50], rtol=1e-6)


def test_a_bit_of_counter_or_key_turns_every_bit_of_the_words_half_of_the_time():
    n = 1 << 14
    x0 = jnp.arange(n, dtype=jnp.uint32)  # counters as they are used: the lowest bits, one after the other
    words, step = counter.words_of(jax.random.key(3)), jnp.full(n, 5, jnp.uint32)
    before = jnp.stack(counter.threefry(words, x0, step))
    flip = jax.jit(lambda bit: jnp.stack(counter.threefry(words, x0 ^ (jnp.uint32(1) << bit), step)))
    of_key = jax.jit(lambda bit: jnp.stack(counter.threefry(words ^ jnp.array([0, 1], jnp.uint32) << bit, x0, step)))
    for change in (flip, of_key):
        for bit in (0, 1, 13, 31):
            turned = np.unpackbits(np.asarray(before ^ change(bit)).view(np.uint8).reshape(2, n, 4), axis=-1)
            share = turned.reshape(2, n, 32).mean(1)
            assert np.abs(share - 0.5).max() < 5.0 * 0.5 / np.sqrt(n)
