"""Your own filter in the score table: it sees what the others see, and is refused in one line if it is none."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import compare, config, experiment, observations, twin
from jaxda.filters import letkf
from jaxda.filters.localization import Geometry
from jaxda.filters.own import OwnConfig
from jaxda.models import lorenz96
from jaxda.observations import ObservationConfig

TEXT = """
title = "Mine"
members = 10
cycles = 20
interval_hours = 6.0
[model]
kind = "lorenz96"
dim = 12
[nature]
spinup_days = 20.0
climate_days = 20.0
[initial]
noise = 1.0
[observations]
operator = "identity"
[filters.free-run]
kind = "free-run"
[filters.LETKF]
kind = "letkf"
cutoff = inf
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "small.toml"
    path.write_text(TEXT)
    own = config.read(path)
    return own, experiment.make_world(own)


def test_a_filter_of_ours_given_as_yours_has_our_scores(small):
    own, world = small
    same = letkf.make_analysis(own.filters["LETKF"], Geometry.of(own.model), world.operator)
    found = compare.run(own, {"mine": same}, world)
    assert list(found.records) == ["free-run", "LETKF", "mine"]
    for ours, yours in zip(found.records["LETKF"].scores, found.records["mine"].scores, strict=True):
        np.testing.assert_allclose(yours, ours, rtol=1e-5, atol=1e-6)
    assert found.records["mine"].mean("rmse_a", 1 / 3) < 0.3 * found.records["free-run"].mean("rmse_a", 1 / 3)
    lines = repr(found).splitlines()
    assert lines[0].strip() == "Mine"
    assert [line.split()[1] for line in lines if "ok" in line] == ["free-run", "LETKF", "mine"]


def test_a_filter_that_loses_the_truth_is_said_to_have_diverged(small, capsys):
    own, world = small
    alone = dataclasses.replace(own, filters={"mine": OwnConfig(members=4)})
    found = compare.run(alone, {"mine": lambda key, x, y: x + 20.0}, world)
    assert found.records["mine"].status in ("diverged", "non-finite")
    assert capsys.readouterr().err.startswith("cycles: 20 cycles in ")


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("LETKF", lambda key, x, y: x, "filters.LETKF: the experiment has that already"),
        ("mine", lambda key, x, y: x.mean(0), r"filters.mine: returns float32\[12\]|.* for an ensemble"),
        ("mine", lambda key, x, y: (x, y), "filters.mine: returns .* for an ensemble"),
        ("mine", lambda key, x, y: x.astype(jnp.int32), "filters.mine: returns .* for an ensemble"),
    ],
)
def test_what_is_no_filter_is_refused(small, name, function, words):
    own, world = small
    with pytest.raises(ValueError, match=words) as error:
        compare.run(own, {name: function}, world)
    assert "\n" not in str(error.value)


def test_settings_without_a_function_are_refused(small):
    own = dataclasses.replace(small[0], filters={"mine": OwnConfig()})
    with pytest.raises(ValueError, match=r"filters.mine: .*Python code"):
        compare.run(own)


def test_arrays_and_functions_alone_give_what_an_experiment_gives(small):
    own, world = small
    advance = lorenz96.make_advance(own.model, 1)
    analysis = letkf.make_analysis(own.filters["LETKF"], Geometry.of(own.model), world.operator)
    found = compare.cycled(
        world.key,
        world.truth,
        world.first_ensemble(10),
        {"LETKF": analysis},
        forecast=lambda key, ensemble: advance(ensemble),
        observe=world.observe,
        screen=partial(observations.screened, world.operator, limit=own.observations.reject),
    )
    expected = compare.run(own, {}, world).records["LETKF"].scores
    np.testing.assert_allclose(found.records["LETKF"].scores.rmse_a, expected.rmse_a, rtol=1e-4)


def test_your_own_model_in_numpy_and_your_own_operator():
    """dx/dt = -x with noise, observed by x^3: what a NumPy function forecasts, `cycled` assimilates."""
    numpy_model = lambda x: (np.float32(0.9) * x).astype(np.float32)

    def forecast(key, ensemble):
        like = jax.ShapeDtypeStruct(ensemble.shape, ensemble.dtype)
        after = jax.pure_callback(numpy_model, like, ensemble, vmap_method="broadcast_all")
        return after + 0.5 * jax.random.normal(key, ensemble.shape)

    cubes = observations.PointFunction(lambda x: x + 0.1 * x**3)
    network = ObservationConfig(sigma=0.1)
    operator = observations.make_operator(network, (8,), function=cubes)
    truth = jax.random.normal(jax.random.key(0), (30, 8))
    geometry = Geometry((8,), spacing=1.0)
    filters = {
        "free": lambda key, x, y: x,
        "LETKF": letkf.make_analysis(letkf.LETKFConfig(cutoff=2.0), geometry, operator),
    }
    found = compare.cycled(
        jax.random.key(1),
        truth,
        jax.random.normal(jax.random.key(2), (20, 8)),
        filters,
        forecast=forecast,
        observe=observations.make_network(network, operator),
    )
    errors = {name: record.mean("rmse_a") for name, record in found.records.items()}
    assert errors["LETKF"] < 0.4 * errors["free"]
    assert twin.Scores._fields == found.records["free"].scores._fields
