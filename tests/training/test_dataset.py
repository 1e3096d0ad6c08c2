"""Samples: the right states after the right time, no leak between the parts, the same order everywhere."""

import dataclasses
import threading
import time
from itertools import chain, islice, pairwise

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxda.training import dataset
from jaxda.training.dataset import DataConfig, Series, Statistics

KEY = jax.random.key(3)
NONE = Statistics(np.zeros(2), np.ones(2))


def numbered(count=200, interval=3.0, size=4):
    """States whose values are their number, plus 1000 at the other boundary, plus the column's over 100."""
    states = np.arange(count, dtype=np.float64)[:, None, None, None] + np.array([0.0, 1000.0])[:, None, None]
    return Series.of(states + np.arange(size) / 100 * np.ones((1, 1, size, 1)), interval)


CONFIG = DataConfig(lead_hours=(12.0,), roll_out=2, gap_hours=24.0, batch=8, shift=False)


def test_statistics_in_one_pass_are_those_of_all(assert_near):
    states = np.random.default_rng(0).normal([[[[5.0]], [[-300.0]]]], [[[[2.0]], [[40.0]]]], (150, 2, 4, 4))
    found = dataset.statistics(Series.of(states, 1.0), range(10, 150))
    assert_near(found.mean, states[10:].mean((0, 2, 3)), 1e-12)
    assert_near(found.std, states[10:].std((0, 2, 3)), 1e-12)
    assert_near(found.restore(found.normalise(states)), states, 1e-12)
    assert_near(found.normalise(states)[10:].std((0, 2, 3)), np.ones(2), 1e-12)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (np.full((3, 2, 4, 4), np.nan), "not finite"),
        (np.ones((3, 2, 4, 4)), "variable 0 does not vary"),
        (np.ones((0, 2, 4, 4)), "no states"),
    ],
)
def test_statistics_that_cannot_be_are_refused(states, said):
    with pytest.raises(ValueError, match=said):
        dataset.statistics(Series.of(states, 1.0), range(len(states)))


@given(
    count=st.integers(150, 400),
    gap=st.integers(0, 60),
    validation=st.floats(0.1, 0.3),
    test=st.sampled_from([0.0, 0.1, 0.2]),
)
def test_parts_follow_each_other_with_a_gap_between(count, gap, validation, test):
    config = dataclasses.replace(CONFIG, gap_hours=float(gap), validation=validation, test=test)
    parts = dataset.split(numbered(count), config)
    kept = [part for part in parts if len(part)]
    assert len(kept) == 3 if test else 2
    assert kept[0].start == 0
    assert count - 3 <= kept[-1].stop <= count + 3
    for before, after in pairwise(kept):
        assert (after.start - (before.stop - 1) - 1) * 3.0 >= gap


def test_a_sample_holds_the_states_after_its_lead_times():
    series, part = numbered(), range(30, 130)
    several = dataclasses.replace(CONFIG, lead_hours=(3.0, 12.0))
    seen = set()
    for step in range(20):
        batch = dataset.batch_at(KEY, series, several, part, NONE, step)
        first = batch.x[:, 0, 0, 0]
        steps = batch.lead_time * 24 / 3
        seen |= set(np.rint(steps).astype(int).tolist())
        assert batch.x.dtype == batch.y.dtype == np.float32
        assert batch.y.shape == (8, 2, 2, 4, 4)
        for k in (0, 1):
            np.testing.assert_allclose(batch.y[:, k, 0, 0, 0], first + (k + 1) * steps, rtol=1e-6)
        np.testing.assert_allclose(batch.x[:, 1], batch.x[:, 0] + 1000.0, rtol=1e-6)
        assert first.min() >= part.start
        assert batch.y.min() >= part.start
        assert batch.y[:, :, 0, 0, 0].max() < part.stop
    assert seen == {1, 4}


def test_an_epoch_takes_each_sample_once_and_the_next_in_another_order():
    series, part = numbered(), range(0, 64 + 8)
    per_epoch = dataset.steps_per_epoch(series, CONFIG, part)
    assert per_epoch == 8
    starts = lambda first: [
        dataset.batch_at(KEY, series, CONFIG, part, NONE, first + i).x[:, 0, 0, 0].tolist() for i in range(per_epoch)
    ]
    one, two = starts(0), starts(per_epoch)
    assert sorted(chain(*one)) == sorted(chain(*two)) == list(range(64))
    assert one != two
    assert starts(0) == one


def test_processes_share_the_batch_of_one():
    series, part = numbered(), range(100)
    moved = dataclasses.replace(CONFIG, shift=True)
    whole = dataset.batch_at(KEY, series, moved, part, NONE, 3)
    parts = [dataset.batch_at(KEY, series, moved, part, NONE, 3, p, 4) for p in range(4)]
    for found, expected in zip(jax.tree.map(lambda *a: np.concatenate(a), *parts), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_shifts_move_a_sample_as_a_whole_along_x():
    batch = dataset.batch_at(KEY, numbered(), dataclasses.replace(CONFIG, shift=True), range(100), NONE, 0)
    still = dataset.batch_at(KEY, numbered(), CONFIG, range(100), NONE, 0)
    moves = set()
    for i in range(8):
        found = [s for s in range(4) if np.array_equal(np.roll(still.x[i], s, -1), batch.x[i])]
        assert len(found) == 1
        np.testing.assert_array_equal(np.roll(still.y[i], found[0], -1), batch.y[i])
        moves |= set(found)
    assert len(moves) > 1


def test_mirrors_turn_a_sample_as_a_whole_and_half_of_them():
    """Signs and boundaries: four forms, each of which a quarter of the samples has."""
    mirrors = (lambda x: -x, lambda x: x[..., ::-1, :, :])
    own = dataclasses.replace(CONFIG, batch=64)
    batch = dataset.batch_at(KEY, numbered(), own, range(100), NONE, 0, mirrors=mirrors)
    still = dataset.batch_at(KEY, numbered(), own, range(100), NONE, 0)
    forms = (lambda x: x, *mirrors, lambda x: mirrors[0](mirrors[1](x)))
    counts = [0] * 4
    for i in range(64):
        found = [number for number, form in enumerate(forms) if np.array_equal(form(still.x[i]), batch.x[i])]
        assert len(found) == 1
        np.testing.assert_array_equal(forms[found[0]](still.y[i]), batch.y[i])
        counts[found[0]] += 1
    assert min(counts) > 4


def test_states_are_read_once_and_in_order():
    asked = []
    series = numbered()
    spy = Series(series.count, series.interval_hours, lambda n: asked.append(n) or series.read(n))
    dataset.batch_at(KEY, spy, CONFIG, range(100), NONE, 0)
    assert len(asked) == 1
    assert (np.diff(asked[0]) > 0).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lead_hours": (4.0,)}, "lead_hours = 4 is not a multiple of the series' interval of 3 h; use 3"),
        ({"lead_hours": (300.0,)}, "under the 201 of one sample"),
        ({"gap_hours": 5000.0}, "use a longer nature run"),
        ({"validation": 0.01}, "states for validation"),
    ],
)
def test_a_series_that_is_too_short_is_refused(given, said):
    with pytest.raises(ValueError, match=".*") as caught:  # noqa: RUF043
        dataset.split(numbered(), dataclasses.replace(CONFIG, **given))
    assert said in str(caught.value)


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="batch = 8 is more than the 2 samples"):
        dataset.steps_per_epoch(numbered(), CONFIG, range(10))
    with pytest.raises(ValueError, match="does not divide over 3 processes"):
        dataset.batch_at(KEY, numbered(), CONFIG, range(100), NONE, 0, 0, 3)


def test_prefetching_keeps_order_and_errors_and_ends():
    assert list(dataset.prefetched(range(10))) == list(range(10))

    def failing():
        yield 1
        raise OSError("gone")

    items = dataset.prefetched(failing())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_whoever_stops_early_stops_the_thread():
    made = []
    before = threading.active_count()

    def endless():
        while True:
            made.append(0)
            yield 0

    items = dataset.prefetched(endless(), ahead=2)
    assert list(islice(items, 3)) == [0, 0, 0]
    items.close()
    deadline = time.time() + 10
    while threading.active_count() > before and time.time() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert len(made) < 10
