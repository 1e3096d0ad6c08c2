"""From data to checkpoint to resume, with the configuration that is made for tests."""

import csv
import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda import forecast, surrogate
from jaxda.models import sqg, vit
from jaxda.output import netcdf
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.training import flops, simulator
from jaxda.training.dataset import Series

pytestmark = pytest.mark.usefixtures("settings_of_jax")
TINY = Path(__file__).parents[1] / "configs" / "vit_tiny.toml"


def tiny(**train):
    own = configuration.read(TINY, {}, surrogate.SurrogateConfig)
    return dataclasses.replace(own, train=dataclasses.replace(own.train, **train))


@pytest.mark.parametrize(
    ("name", "count"),
    [("64", 157_789_216), ("128", 1_236_023_328), ("256", 2_450_913_312), ("coupled", 108_141_576)],
)
def test_the_published_configurations_have_the_published_parameters(name, count):
    own = configuration.read(TINY.with_name(f"vit_{name}.toml"), {}, surrogate.SurrogateConfig)
    assert vit.count_parameters(own.vit) == count
    assert (12.0 / own.model.step_hours) == pytest.approx(round(12.0 / own.model.step_hours))


@pytest.fixture(scope="module")
def series(tiny_series):
    return tiny_series


def final(out):
    """Arrays and plain values of the last checkpoint."""
    with Checkpoints(out / "checkpoints", create=False) as checkpoints:
        state = jax.tree.leaves(checkpoints._manager.restore(checkpoints.last)["state"])
        return checkpoints.last, [np.asarray(leaf) for leaf in state], checkpoints.meta(checkpoints.last)


@pytest.mark.long
def test_a_run_killed_on_the_way_goes_on_bit_for_bit(tmp_path, series):
    surrogate.train(tiny(), series, tmp_path / "whole")

    def stop(step, loss):
        if step == 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surrogate.train(tiny(), series, tmp_path / "cut", stop)
    assert final(tmp_path / "cut")[0] == 40
    said = []
    surrogate.train(tiny(log_every=7), series, tmp_path / "cut", lambda step, text: said.append((step, text)))
    steps = [step for step, _ in said]
    assert re.fullmatch(r"loss 0\.\d{4}, \S+ samples/s, \S+ TFLOP/s, MFU \d+ %", said[-1][1])
    assert steps == list(range(41, 61))
    assert [row["step"] for row in csv.DictReader((tmp_path / "cut" / "log.csv").open())] == ["20", "40", "60"]
    (number, expected, _), (last, found, _) = final(tmp_path / "whole"), final(tmp_path / "cut")
    assert number == last == 60
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    # what a forecast needs is in it
    trained = surrogate.load(tmp_path / "cut", "last")
    assert trained.config == tiny(log_every=7)
    np.testing.assert_allclose(trained.statistics.std, series.read(np.arange(280)).std((0, 2, 3)), rtol=0.2)
    states = series.read(np.arange(2))
    after = forecast.make_forecast(trained.config, trained.statistics)(trained.params, states, 3)
    assert after.shape == (3, *states.shape)
    assert np.isfinite(after).all()


def on(own, **given):
    return dataclasses.replace(own, parallel=dataclasses.replace(own.parallel, **given))


def scores(folder):
    rows = csv.DictReader((folder / "log.csv").open())
    return [[float(row[name]) for name in ("loss", "rmse_1", "rmse_3", "correlation_1")] for row in rows]


@pytest.mark.slow
def test_two_devices_find_what_one_does_and_one_goes_on_from_them(tmp_path, series):
    surrogate.train(tiny(), series, tmp_path / "one")
    both = on(tiny(steps=60), strategy="zero3", devices=2)

    def stop(step, text):
        if step == 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surrogate.train(both, series, tmp_path / "two", stop)
    with Checkpoints(tmp_path / "two" / "checkpoints", create=False) as checkpoints:
        assert checkpoints.last == 40
    surrogate.train(tiny(), series, tmp_path / "two")
    np.testing.assert_allclose(scores(tmp_path / "two"), scores(tmp_path / "one"), rtol=1e-3)
    assert len(scores(tmp_path / "one")) == 3
    assert surrogate.load(tmp_path / "two").config.parallel.strategy == "ddp"


def test_samples_that_do_not_divide_over_the_devices_are_refused(tmp_path, series):
    own = on(dataclasses.replace(tiny(), data=dataclasses.replace(tiny().data, batch=3)), devices=2)
    with pytest.raises(ValueError, match=r"data.batch = 3 does not divide over 2 devices; use a multiple"):
        surrogate.train(own, series, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def simulated(**train):
    own = tiny(**({"steps": 20, "validate_every": 10, "accumulate": 2} | train))
    series = dataclasses.replace(own.series, source="simulator", pool=8, spinup_days=10.0)
    return dataclasses.replace(own, series=series)


@pytest.mark.slow
def test_a_run_on_the_simulator_is_the_same_on_two_devices(tmp_path):
    own = simulated(steps=10)
    held_out = surrogate.make_series(own)
    surrogate.train(own, held_out, tmp_path / "one")
    surrogate.train(on(own, strategy="zero2", devices=2), held_out, tmp_path / "two")
    np.testing.assert_allclose(scores(tmp_path / "two"), scores(tmp_path / "one"), rtol=1e-3)


@pytest.mark.slow
def test_a_run_on_the_simulator_goes_on_bit_for_bit(tmp_path):
    own = simulated()
    held_out = surrogate.make_series(own)
    assert held_out.count == round(0.15 * 60 * 6)
    surrogate.train(own, held_out, tmp_path / "whole")

    def stop(step, text):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surrogate.train(own, held_out, tmp_path / "cut", stop)
    said = []
    surrogate.train(own, held_out, tmp_path / "cut", lambda *words: said.append(words))
    assert [step for step, _ in said] == list(range(11, 21))  # no spin-up again
    (number, expected, meta), (last, found, again) = final(tmp_path / "whole"), final(tmp_path / "cut")
    assert number == last == 20
    assert meta["statistics"] == again["statistics"]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    pools = [pool_of(tmp_path / name) for name in ("whole", "cut")]
    np.testing.assert_array_equal(*(pool.states for pool in pools))
    assert pools[0].number == pools[1].number == 40  # two batches a step


def pool_of(out):
    with Checkpoints(out / "checkpoints", create=False) as checkpoints:
        return checkpoints.restore(checkpoints.last, simulator.empty(sqg.SQGConfig(N=16), 8), "data")


def test_the_script_trains_and_says_how_well(tiny_training):
    folder, _, out = tiny_training
    assert "best at step" in out
    assert "persistence" in out
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert [row["step"] for row in rows] == ["10", "20"]
    # three leads of four hours: persistence gets worse, and the residual model starts from it
    assert float(rows[0]["persistence_1"]) < float(rows[0]["persistence_3"])
    assert float(rows[-1]["rmse_1"]) < 1.1 * float(rows[-1]["persistence_1"])
    # how fast: samples of four, and shares that belong together
    for row in rows:
        assert float(row["samples_per_second"]) > 0
        assert float(row["tflops"]) / float(row["samples_per_second"]) == pytest.approx(
            flops.of_step(tiny().vit, 1) / 1e12
        )
        assert float(row["tflops"]) * 1e12 / float(row["mfu"]) == pytest.approx(flops.product_rate("float32"))
    written = configuration.read(folder / "config.toml", {}, surrogate.SurrogateConfig)
    assert written.train.steps == 20


@pytest.mark.slow
def test_training_learns_what_can_be_learnt(tmp_path):
    """Fields that change their sign at each lead."""
    waves = 1000.0 * np.random.default_rng(0).normal(size=(1, 2, 16, 16))
    number = np.arange(400)[:, None, None, None]
    series = Series.of((waves * (-1.0) ** number * (1 + 0.3 * np.sin(0.1 * number))).astype(np.float32), 4.0)
    best = surrogate.train(tiny(steps=200, validate_every=50, learning_rate=0.01), series, tmp_path / "run")
    assert best["rmse_1"] < 0.9 * best["persistence_1"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_state_before_it(tmp_path, series):
    counted = []

    def read(numbers):
        counted.append(0)
        return series.read(numbers) * (np.nan if len(counted) > 40 else 1.0)

    bad = Series(series.count, series.interval_hours, read)
    with pytest.raises(ValueError, match=r"the loss is nan at step \d+; the state before it is saved"):
        surrogate.train(tiny(), bad, tmp_path / "run")
    number, arrays, _ = final(tmp_path / "run")
    assert number > 0
    assert all(np.isfinite(np.float32(a)).all() for a in arrays)


@pytest.mark.slow
def test_early_stopping(tmp_path, series):
    steps = []
    own = tiny(steps=400, validate_every=5, patience=2, learning_rate=0.3, clip=1e3)
    surrogate.train(own, series, tmp_path / "run", lambda step, loss: steps.append(step))
    assert steps[-1] < 400


def test_other_settings_do_not_go_on(tmp_path, series):
    surrogate.train(tiny(steps=10, validate_every=10), series, tmp_path / "run")
    with pytest.raises(FileError, match=r"trained with other settings, train\.learning_rate = 0\.003, now 0\.1"):
        surrogate.train(tiny(steps=10, validate_every=10, learning_rate=0.1), series, tmp_path / "run")


def test_a_nature_run_in_a_file_is_read_as_it_is_needed(tmp_path, series):
    config = sqg.SQGConfig(N=16)
    states = series.read(np.arange(50))
    netcdf.create_nature_run(tmp_path / "run.nc", config)
    netcdf.append_states(tmp_path / "run.nc", 4 * 3600.0 * np.arange(50), states)
    own = configuration.read(TINY, {"series.file": str(tmp_path / "run.nc")}, surrogate.SurrogateConfig)
    found = surrogate.make_series(own)
    assert (found.count, found.interval_hours) == (50, 4.0)
    np.testing.assert_array_equal(found.read(np.array([3, 17, 49])), states[[3, 17, 49]])


def hybrid_of(file, **train):
    """One that corrects a jet of 25 m/s to the states of a file, whose jet is 30 m/s."""
    own = tiny(steps=4, validate_every=2, warmup=1, **train)
    small = {"image_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 2, "decoder_depth": 0, "residual": True}
    return dataclasses.replace(
        own,
        hybrid=True,
        model=sqg.SQGConfig(N=16, U=25.0),
        vit=vit.ViTConfig(**small, aggregation="joint", dropout=0.0, drop_path=0.0),
        series=dataclasses.replace(own.series, file=str(file)),
    )


def test_a_hybrid_is_the_model_and_what_the_network_adds(tmp_path, tiny_file, assert_near):
    """Trained on states of a file, saved and read back, and its forecast by hand."""
    own = hybrid_of(tiny_file)
    series = surrogate.make_series(own)
    surrogate.train(own, series, tmp_path / "run")
    trained = surrogate.load(tmp_path / "run", "last")
    assert trained.config == own
    states = series.read(np.arange(3))
    found = jax.jit(forecast.make_step(trained.config, trained.statistics))(trained.params, states)
    guess = jax.jit(sqg.make_advance(own.model, 3))(states)  # 4 h
    mean, std = (part[:, None, None].astype(np.float32) for part in trained.statistics)
    added = lambda x: vit.apply(own.vit, trained.params, x, np.full(3, 4.0 / 24, np.float32))
    assert_near(found, jax.jit(added)((guess - mean) / std) * std + mean, 1e-5)
    assert np.abs(found - guess).max() > 1e-3 * np.abs(guess).max()
    # what it is validated against: the states of the file, not those of its own model
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) * 1.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vit": {"first_guess": 1}}, "hybrid = True has the model for a first guess; use residual = true"),
        ({"vit": {"residual": False}}, "hybrid = True has the model for a first guess; use residual = true"),
        ({"data": {"lead_hours": (4.0, 8.0)}}, "lead_hours = [4.0, 8.0]: the simulator makes one; give one"),
        ({"series": {"file": None}}, "hybrid = True: the model needs no correction to states of its own; give series"),
    ],
)
def test_hybrids_that_make_no_sense_are_refused(tiny_file, change, said):
    (part, fields), own = *change.items(), hybrid_of(tiny_file)
    with pytest.raises(ValueError, match=re.escape(said)):
        surrogate.make_series(dataclasses.replace(own, **{part: dataclasses.replace(getattr(own, part), **fields)}))
