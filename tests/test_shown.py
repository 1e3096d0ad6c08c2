"""What objects show in IPython: a line each, true, and of settings what makes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import config, observations, shown, twin
from jaxda.filters.letkf import LETKFConfig
from jaxda.models import lorenz96, sqg


def test_settings_show_what_is_not_default_and_what_makes_them_again():
    assert repr(sqg.SQGConfig()) == "SQGConfig()"
    assert repr(LETKFConfig(cutoff=1500.0)) == "LETKFConfig(cutoff=1500.0)"
    model, filters = {"kind": "lorenz96", "dim": 8}, {"a": {"kind": "letkf", "cutoff": 5.0}}
    own = config.ExperimentConfig(cycles=3, model=model, interval_hours=6.0, filters=filters)
    names = {kind.__name__: kind for kind in (config.ExperimentConfig, lorenz96.Lorenz96Config, LETKFConfig)}
    assert eval(repr(own), names) == own
    assert "initial" not in repr(own)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sqg.make_params(sqg.SQGConfig(N=64)),
        lambda: observations.Observation(jnp.full((2, 64, 64), jnp.nan), jnp.zeros((2, 64, 64))),
        lambda: twin.Scores(*(jnp.arange(300.0) for _ in twin.Scores._fields)),
        lambda: twin.keys(jax.random.key(0), 1),
        lambda: observations.make_operator(observations.ObservationConfig(positions=50), (2, 64, 64)),
    ],
)
def test_arrays_are_a_few_words_each(make):
    text = repr(make())
    assert "\n" not in text
    assert len(text) < 1200


def test_an_array_shows_its_range_and_what_is_missing():
    values = np.linspace(-1.0, 2.0, 10)
    values[3:5] = np.nan
    assert shown.brief(values) == "float64[10] from -1 to 2, 2 NaN"
    assert shown.brief(np.full(9, np.nan, np.float32)) == "float32[9], 9 NaN"
    assert shown.brief(jnp.float32(2.5)) == "float32[] 2.5"
    assert shown.brief((2, 16, 16)) == "(2, 16, 16)"
    assert shown.brief(None) == "None"


def test_what_is_traced_shows_its_shape():
    seen = []
    jax.jit(lambda x: seen.append(repr(observations.Observation(x, x))) or x)(jnp.zeros((2, 3)))
    assert seen == ["Observation(values=float32[2, 3], precision=float32[2, 3])"]


def test_what_was_given_away_still_shows_itself():
    kept = jnp.arange(8.0)
    kept.delete()
    assert shown.brief(kept) == "float32[8]"
