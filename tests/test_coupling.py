"""What members are forecast by: model, perfect model, surrogate, hybrid; what stands in, and what is refused."""

import dataclasses
import re
import types

import calling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda import coupling, experiment, forecast, surrogate, truth, twin
from jaxda.filters import baselines
from jaxda.models import sqg
from jaxda.parallel.mesh import member_mesh
from jaxda.training.dataset import DataConfig, Statistics

pytestmark = pytest.mark.usefixtures("settings_of_jax")
KEY = jax.random.key(0)
EXPERIMENT = """
members = 4
cycles = 3
[model]
kind = "sqg"
N = 16
[nature]
file = "{file}"
spinup_days = 0.0
climate_days = 20.0
[surrogate]
folder = "{folder}"
[surrogate.network]
patch_size = 4
embed_dim = 16
depth = 2
num_heads = 2
decoder_depth = 0
residual = true
[filters.ours]
kind = "free-run"
forecast = "surrogate"
"""


@pytest.fixture(scope="module")
def path(untrained, tiny_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("coupling") / "small.toml"
    path.write_text(EXPERIMENT.format(file=tiny_file, folder=untrained))
    return path


@pytest.fixture(scope="module")
def trained(untrained):
    return surrogate.load(untrained)


@pytest.fixture(scope="module")
def climate(tiny_series):
    return baselines.climate_of(jnp.asarray(tiny_series.read(np.arange(0, 300, 3))))


@pytest.fixture(scope="module")
def states(tiny_series):
    return jnp.asarray(tiny_series.read(np.array([300, 320, 340, 359])))


@pytest.fixture
def made(path, climate, cpus):
    """A function: overrides, devices -> a configuration, what its filter forecasts with, and its cycle, a free run."""

    def make(given=None, devices=1):
        config = configuration.read(path, given or {})
        operator, observe = experiment.check(config)
        mesh = member_mesh(4, cpus[:devices])
        assert mesh.size == devices
        forecaster = coupling.make_forecaster(config, "ours", operator, climate, mesh)

        @jax.jit
        def cycle(ensemble, series):
            return twin.coupled_cycle(
                KEY,
                twin.Coupled(ensemble, forecaster.model),
                series,
                forecast=forecaster.forecast,
                learn=forecaster.learn,
                observe=observe,
                analysis=baselines.make_free_run(),
                keep_members=True,
            )

        return config, forecaster, cycle

    return make


def truth_of(states, cycles):
    return jnp.broadcast_to(states.mean(0), (cycles, *states.shape[1:]))


# Surrogates


def test_a_row_by_surrogate_is_its_forecasts_by_hand(made, trained, states, assert_near):
    _, _, cycle = made()
    coupled, (scores, fields, learned) = cycle(states, truth_of(states, 2))
    roll_out = forecast.make_forecast(trained.config, trained.statistics)
    first = roll_out(trained.params, states, 3)[-1]  # three leads of 4 h in a cycle of 12
    np.testing.assert_array_equal(fields.members[0], states)
    assert_near(fields.members[1], first, 1e-5)
    assert_near(coupled.ensemble, roll_out(trained.params, first, 3)[-1], 1e-5)
    assert scores.replaced.tolist() == [0, 0]
    assert learned is None
    for found, expected in zip(jax.tree.leaves(coupled.model), jax.tree.leaves(trained.params), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fallback", ["model", "analysis"])
def test_members_that_the_surrogate_loses_are_replaced_and_counted(made, states, assert_near, monkeypatch, fallback):
    """By one that makes something unusable of two members: the others are what it makes of them, bit for bit."""

    def spoilt(config, trained):
        worst = {1: jnp.nan, 3: jnp.inf}
        marks = [jnp.all(states[:, :, :2] == states[k, :, :2]) for k in worst]
        assert not any(marks)  # members differ, so that each can be told by its values

        def interval(params, ensemble):
            after = 2.0 * ensemble
            for k, value in worst.items():
                own = jnp.all(ensemble == states[k], axis=(1, 2, 3), keepdims=True)
                after = jnp.where(own & (jnp.arange(16) == 5), value, after)
            return after

        return interval

    monkeypatch.setattr(coupling, "make_interval", spoilt)
    config, _, cycle = made({"surrogate.fallback": fallback})
    coupled, (scores, _, _) = cycle(states, truth_of(states, 1))
    assert scores.replaced.tolist() == [2]
    np.testing.assert_array_equal(coupled.ensemble[::2], 2.0 * states[::2])
    if fallback == "analysis":
        np.testing.assert_array_equal(coupled.ensemble[1::2], states[1::2])
    else:
        assert_near(coupled.ensemble[1::2], jax.jit(coupling.make_advance(config))(states[1::2]), 1e-5)


def test_members_beyond_the_limit_are_the_models(made, trained, states, assert_near):
    limit = 1.5 * float(jnp.abs(trained.statistics.normalise(states)).max())
    config, forecaster, _ = made({"surrogate.limit": limit})
    step = jax.jit(forecaster.forecast)
    far = states.at[2].multiply(3.0)
    after, replaced = step(KEY, 0, forecaster.model, far)
    as_they_are, none = step(KEY, 0, forecaster.model, states)
    assert (replaced, none) == (1, 0)
    others = np.array([0, 1, 3])
    np.testing.assert_array_equal(after[others], as_they_are[others])
    assert_near(after[2], jax.jit(coupling.make_advance(config))(far[2]), 1e-5)


def test_two_devices_forecast_and_replace_as_one_does(made, trained, states, assert_near):
    limit = 1.5 * float(jnp.abs(trained.statistics.normalise(states)).max())
    far = states.at[2].multiply(3.0)
    found = []
    for devices in (1, 2):
        _, forecaster, _ = made({"surrogate.limit": limit}, devices)
        after, replaced = jax.jit(forecaster.forecast)(KEY, 0, forecaster.model, far)
        assert len(after.sharding.device_set) == devices
        assert replaced == 1
        found.append(np.asarray(after))
    assert_near(found[1], found[0], 1e-5)


# The truth's model, and hybrids

SCHEDULE = {"nature.schedule": {"U": {"kind": "line", "days": [0.0, 2.0], "values": [30.0, -30.0]}}, "cycles": 4}


def test_perfect_is_the_truths_model_at_that_cycle(made, states, assert_near):
    config, forecaster, _ = made({"filters.ours.forecast": "perfect", **SCHEDULE})
    step = jax.jit(forecaster.forecast)
    found = [step(KEY, number, forecaster.model, states)[0] for number in (0, 3)]
    advance = jax.jit(truth.make_truth_advance(config))
    for number, after in zip((0, 3), found, strict=True):
        assert_near(after, advance(number, states), 1e-5)
    assert np.abs(found[1] - found[0]).max() > 0.01 * np.abs(found[0]).max()


def test_a_hybrid_that_corrects_nothing_is_the_model(made, states, assert_near):
    given = {"forecast_change.U": 27.0}
    _, hybrid, _ = made({"filters.ours.forecast": "hybrid", **given})
    _, model, _ = made({"filters.ours.forecast": "model", **given})
    after, replaced = jax.jit(hybrid.forecast)(KEY, 0, hybrid.model, states)
    expected = jax.jit(model.forecast)(KEY, 0, model.model, states)[0]
    assert replaced == 0
    assert_near(after, expected, 1e-5)
    right = jax.jit(coupling.make_advance(made()[0]))(states)
    assert np.abs(right - expected).max() > 1e-3 * np.abs(expected).max()


def corrected(config, climate, size=0.1):
    """A hybrid whose network does something."""
    trained = coupling._uncorrected(config, climate)
    return trained._replace(
        params=jax.tree.map(
            lambda leaf: leaf + size * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), trained.params
        )
    )


def test_what_a_learner_shall_not_forget(path, trained, climate, cpus, assert_near):
    """Of a surrogate what its model makes of states, of a hybrid what it makes of them itself.

    A hybrid's states have been through its model already: its network alone learns.
    """
    ten = {"online.replay_states": 10, "online_correction.replay_states": 10}
    config = configuration.read(path, ten | {"interval_hours": 4.0})
    operator, _ = experiment.check(config)
    mesh = member_mesh(4, cpus[:1])
    hybrid = corrected(config, climate)
    chosen = climate.states[::10]
    after_model = jax.jit(sqg.make_advance(config.model, 3))(chosen)
    after_hybrid = jax.jit(forecast.make_step(hybrid.config, hybrid.statistics))(hybrid.params, chosen)
    assert np.abs(after_hybrid - after_model).max() > 0.01 * np.abs(after_model).max()
    for own, prepared, expected in ((trained, chosen, after_model), (hybrid, after_model, after_hybrid)):
        learner = coupling.learning(config, own, None, operator, climate, mesh).model
        x, y = learner.replay
        assert_near(x, own.statistics.normalise(prepared), 1e-5)
        assert_near(y, own.statistics.normalise(expected), 1e-5)


OF_LEARNING = {
    "steps": 1,
    "batch": 2,
    "first": 3,
    "hold_every": 2,
    "guard": 1,
    "window": 4,
    "learning_rate": 1e-3,
    "replay_states": 4,
}
LEARNING = {"filters.ours.online": True, "interval_hours": 4.0}
LEARNING |= {f"{table}.{k}": v for table in ("online", "online_correction") for k, v in OF_LEARNING.items()}


@pytest.mark.slow
def test_a_hybrid_learns_on_two_devices_what_it_learns_on_one(made, states, assert_near):
    """Its weights in parts, over the devices of the members."""
    series = truth_of(states, 8)
    found = []
    for devices in (1, 2):
        given = {"filters.ours.forecast": "hybrid", "online_correction.parallel.strategy": "zero3"}
        _, forecaster, cycle = made(LEARNING | given, devices)
        own = jax.tree.leaves(forecaster.model.train.params["blocks"])
        assert all((leaf.addressable_shards[0].data.size < leaf.size) == (devices == 2) for leaf in own)
        coupled, (scores, _, learned) = cycle(states, series)
        found.append((coupled.ensemble, scores.rmse_b, learned.before[3:], learned.after[3:], learned.drift))
        kept = np.asarray(learned.rolled_back) == 0
        assert kept[3:].any()
        assert (np.asarray(learned.drift[:3]) == 0).all()
        assert learned.drift[-1] > 0
    for one, two in zip(*found, strict=True):
        assert_near(np.asarray(two), np.asarray(one), 1e-3)


@pytest.mark.parametrize(("kind", "learns"), [("surrogate", False), ("hybrid", True)])
def test_cycles_in_double_precision_keep_their_types(path, tiny_series, kind, learns, x64):
    """Networks are of single precision; nothing is computed here."""
    own = {"precision": "float64", "filters.ours.forecast": kind, "filters.ours.online": learns}
    config = configuration.read(path, LEARNING | own)
    operator, observe = experiment.check(config)
    states = jnp.asarray(tiny_series.read(np.arange(8)), jnp.float64)
    forecaster = coupling.make_forecaster(
        config, "ours", operator, baselines.climate_of(states), member_mesh(4, jax.devices()[:1])
    )
    coupled = twin.Coupled(states[:4], forecaster.model)
    run = lambda coupled, series: twin.coupled_cycle(
        KEY, coupled, series, forecast=forecaster.forecast, learn=forecaster.learn, observe=observe,
        analysis=baselines.make_free_run(),
    )  # fmt: skip
    after, _ = jax.eval_shape(run, coupled, states)
    types_of = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert types_of(after) == types_of(coupled)
    assert after.ensemble.dtype == jnp.float64


# What does not fit


def test_what_fits_is_taken(path, trained, climate):
    config = configuration.read(path)
    coupling.require_fit(config, trained, climate, "surrogate")
    assert coupling.leads(config, trained.config) == (4.0, 3)
    own = dataclasses.replace(trained.config, data=DataConfig(lead_hours=(5.0, 6.0, 12.0)))
    assert coupling.leads(config, own) == (6.0, 2)  # the first that divides the cycle
    assert coupling.leads(configuration.read(path, {"surrogate.lead_hours": 12.0}), own) == (12.0, 1)


def of_settings(**given):
    return lambda trained: trained._replace(config=dataclasses.replace(trained.config, **given))


def of_levels(trained):
    return trained._replace(config=types.SimpleNamespace(hybrid=False, vit=types.SimpleNamespace(variables=3)))


def of_grid(trained):
    network = dataclasses.replace(trained.config.vit, image_size=32)
    return of_settings(model=sqg.SQGConfig(N=32), vit=network)(trained)


def of_statistics(mean, std):
    return lambda trained: trained._replace(
        statistics=Statistics(trained.statistics.mean + mean * trained.statistics.std, std * trained.statistics.std)
    )


def as_hybrid(trained):
    network = dataclasses.replace(trained.config.vit, first_guess=0)
    return of_settings(hybrid=True, vit=network)(trained)


def wrong_hybrid(trained):
    return of_settings(model=sqg.SQGConfig(N=16, U=25.0))(as_hybrid(trained))


UNFIT = [
    (of_grid, "surrogate", {}, "N = 32, the experiment has 16; train one with that, or change model.N"),
    (of_settings(model=sqg.SQGConfig(N=16, L=3e7)), "surrogate", {}, "L = 30000000.0, the experiment has 20000000.0"),
    (of_settings(model=sqg.SQGConfig(N=16, H=9e3)), "surrogate", {}, "H = 9000.0, the experiment has 10000.0; train"),
    (of_settings(model=sqg.SQGConfig(N=16, symmetric=False)), "surrogate", {}, "symmetric = False, the experiment has"),
    (of_levels, "surrogate", {}, "levels = 3, the experiment has 2; train one with these"),
    (of_settings(), "surrogate", {"interval_hours": 8 / 3},
     "lead_hours = 4 does not divide the cycle, interval_hours = 2.66667; use a multiple, or train one with a divisor"),
    (of_settings(), "surrogate", {"surrogate.lead_hours": 12.0},
     "lead_hours = 12: the surrogate was not trained with it; use one of 4"),
    (of_settings(data=DataConfig(lead_hours=(24.0,))), "surrogate", {}, "lead_hours = 24 does not divide the cycle"),
    (of_statistics(0.0, 3.0), "surrogate", {}, "normalisation of boundary 0 = "),
    (of_statistics(0.0, 0.3), "surrogate", {}, "train one on its states"),
    (of_statistics(1.5, 1.0), "surrogate", {}, "m/s, the climate of the experiment is "),
    (of_settings(), "hybrid", {}, 'hybrid = False, but forecast = "hybrid"; train one with hybrid = true'),
    (as_hybrid, "surrogate", {}, 'hybrid = True, but forecast = "surrogate"; give it as surrogate.correction'),
    (wrong_hybrid, "hybrid", {}, "U = 25.0, the experiment has 30.0; train one with that, or change model.U"),
    (as_hybrid, "hybrid", {"forecast_change.U": 27.0}, "U = 30.0, the experiment has 27.0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "given", "said"), UNFIT, ids=[said[:28] for *_, said in UNFIT])
def test_what_does_not_fit_is_one_line(path, trained, climate, change, kind, given, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        coupling.require_fit(configuration.read(path, given), change(trained), climate, kind)
    assert len(str(caught.value).splitlines()) == 1


LORENZ = {"model": {"kind": "lorenz96"}, "interval_hours": 6.0, "nature": {}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LORENZ, 'filters.ours: forecast = "surrogate" is of SQG, the experiment of lorenz96; use forecast = "model"'),
        (LORENZ | {"filters.ours.forecast": "hybrid"}, 'filters.ours: forecast = "hybrid" is of SQG, the experiment'),
        ({"surrogate": {}}, 'filters.ours: forecast = "surrogate" needs a trained one; give surrogate.folder'),
        ({"surrogate.folder": "none"}, "none: no such folder; give one that scripts/train_vit.py wrote"),
        ({"surrogate.limit": 0}, "surrogate.limit = 0"),
        (
            {"filters.ours.forecast": "hybrid", "surrogate.network.residual": False},
            "filters.ours: surrogate.network: hybrid = True has the model for a first guess; use residual = true",
        ),
        (
            {"filters.ours.forecast": "hybrid", "surrogate.network.patch_size": 32},
            "filters.ours: surrogate.network: image_size = 16 is not a multiple of patch_size = 32",
        ),
        ({"filters.ours.online": True, "online.batch": 3}, "filters.ours: online.batch = 3 does not divide over 2"),
    ],
)
def test_no_forecaster_is_made_of_bad_settings(made, given, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        made(given, devices=2)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--surrogate.lead_hours", "12"], ["filters.ours: ", "lead_hours = 12: the surrogate was not trained"]),
        (["--surrogate.folder", "none"], ["filters.ours: ", "none: no such folder; give one"]),
        (["--filters.ours.forecast", "hybrid", "--surrogate.correction", "{folder}"], ['but forecast = "hybrid"']),
    ],
)  # fmt: skip
def test_the_script_refuses_and_writes_nothing(path, untrained, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    words = [word.format(folder=untrained) for word in words]
    status, out, error = calling.call(calling.script("osse"), path, "--out", tmp_path / "run", *words)
    lines = [line for line in error.splitlines() if line.startswith("osse.py: ")]
    assert (status, out, len(lines)) == (2, "", 1), error
    assert all(text in lines[0] for text in said), lines
    assert list(tmp_path.iterdir()) == []
