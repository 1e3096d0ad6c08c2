"""Forecasts of a trained surrogate: against the model applied by hand, over devices, from files, by the script."""

import csv
import json
import shutil
from pathlib import Path

import calling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxda import config as configuration
from jaxda import diagnostics, forecast, surrogate
from jaxda.models import sqg, vit
from jaxda.output import analysis_file, checksums, netcdf, starts
from jaxda.parallel.mesh import member_mesh
from jaxda.training import simulator

pytestmark = pytest.mark.usefixtures("settings_of_jax")
N16 = sqg.SQGConfig(N=16)


@pytest.fixture(scope="module")
def trained(tiny_training):
    return surrogate.load(tiny_training[0])


def states_of(series, *shape):
    return series.read(np.arange(int(np.prod(shape)))).reshape(*shape, 2, 16, 16)


SHIPPED = Path(__file__).parents[1] / "configs" / "vit_surrogate"


def test_the_shipped_surrogate_is_its_configurations():
    found = surrogate.load(SHIPPED)
    config = configuration.read(SHIPPED.with_suffix(".toml"), {}, surrogate.SurrogateConfig)
    assert found.config == config
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 20e6


@pytest.mark.slow
def test_the_shipped_surrogate_forecasts_states_that_it_never_saw():
    """12 h to 1 K, as docs/surrogate.md says, and 12 days without an end to it."""
    found = surrogate.load(SHIPPED)
    model = found.config.model
    states = simulator.spun_up(jax.random.key(2026), model, 8, 60.0).states
    roll_out = forecast.make_forecast(found.config, found.statistics)
    truth = sqg.make_advance(model, 36)(states)
    error = model.kelvin * diagnostics.rmse(roll_out(found.params, states, 4)[-1], truth)
    persistence = model.kelvin * diagnostics.rmse(states, truth)
    assert error < 1.0 < 5.0 < persistence
    late = roll_out(found.params, states[:2], 96)[-1]
    assert 0.8 < late.std() / states.std() < 1.2


# The functions


def test_a_forecast_is_the_network_applied_by_hand(trained, tiny_series, assert_near):
    states = states_of(tiny_series, 3)
    found = forecast.make_forecast(trained.config, trained.statistics)(trained.params, states, 2)
    mean, std = (part[:, None, None] for part in trained.statistics)
    apply = jax.jit(lambda x: vit.apply(trained.config.vit, trained.params, x, jnp.full(3, 4.0 / 24)))
    for after in found:
        states = np.asarray(apply(jnp.float32((states - mean) / std))) * std + mean
        assert_near(after, states, 1e-5)


def test_ensembles_and_single_states_agree(trained, tiny_series, assert_near):
    states = states_of(tiny_series, 2, 3)
    step = jax.jit(forecast.make_step(trained.config, trained.statistics))
    together = step(trained.params, states)
    assert together.shape == states.shape
    for index in np.ndindex(2, 3):
        assert_near(together[index], step(trained.params, states[index]), 1e-5)


def rolled_out(trained, step, begin, count):
    leads = list(forecast.roll_out(trained, step, begin, count))
    assert [lead.number for lead in leads] == list(range(count + 1))
    states = (np.stack([getattr(lead, name) for lead in leads]) for name in ("forecast", "truth"))
    return *states, forecast.stacked([lead.scores for lead in leads])


def test_the_scores_of_a_roll_out_are_those_of_its_states(trained, tiny_series, cpus, assert_near):
    states = states_of(tiny_series, 2, 2)
    begin = starts.Starts(states, np.arange(2.0), None)
    one = forecast.make_steps(trained)
    ours, truth, scores = rolled_out(trained, one, begin, 3)
    np.testing.assert_array_equal(ours[0], states)
    advance = jax.jit(sqg.make_advance(N16, round(4.0 / N16.step_hours)))
    assert_near(truth[2], advance(advance(states)), 1e-4)
    assert_near(ours[2].reshape(-1, 2, 16, 16), one.surrogate(ours[1].reshape(-1, 2, 16, 16)), 1e-6)
    kelvin, rms = N16.kelvin, lambda a: np.sqrt((a**2).mean((1, 2, 3, 4, 5)))
    expected = {
        "rmse": rms(ours - truth),
        "persistence": rms(states - truth),
        "climatology": rms(truth - trained.statistics.mean[:, None, None]),
        "rmse_mean": rms((ours - truth).mean(2, keepdims=True)),
        "spread": rms(ours.std(2, keepdims=True, ddof=1)),
        "spread_sqg": rms(truth.std(2, keepdims=True, ddof=1)),
    }
    for name, values in expected.items():
        assert_near(scores[name], kelvin * values, 1e-3)
    assert scores["finite"].all()
    assert scores["correlation"][0] == pytest.approx(1.0)
    others = {"correlation", "persistence_correlation", "ratio_min", "ratio_max", "finite"}
    assert set(scores) == set(expected) | others
    assert set(scores) <= set(forecast.SCORES)
    # over two devices
    two = rolled_out(trained, forecast.make_steps(trained, mesh=member_mesh(4, cpus)), begin, 3)
    for a, b in zip(jax.tree.leaves(two), jax.tree.leaves((ours, truth, scores)), strict=True):
        assert_near(a, b, 1e-4)


def test_spectra_and_what_is_said_of_them(trained, tiny_series):
    score = forecast.make_scores(trained.config, trained.statistics)
    truth = states_of(tiny_series, 2, 1)
    found, spectra = score(truth, 2.0 * truth, None, truth)
    assert found["ratio_min"] == pytest.approx(4.0, rel=1e-4)
    assert found["ratio_max"] == pytest.approx(4.0, rel=1e-4)
    own = N16.kelvin * truth
    np.testing.assert_allclose(spectra["truth"], diagnostics.variance_spectrum(own).mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(spectra["truth"].sum(), (own**2).mean(), rtol=1e-4)
    np.testing.assert_allclose(spectra["error"], spectra["truth"], rtol=1e-4)
    by_lead = {name: np.stack([values] * 6) for name, values in spectra.items()}
    assert forecast.stability(by_lead) == pytest.approx((4.0, 4.0), rel=1e-4)
    assert not score(truth, np.nan * truth, None, truth)[0]["finite"]


def test_a_lead_it_was_not_trained_with_is_refused(trained):
    for make in (forecast.make_step, forecast.make_forecast):
        with pytest.raises(ValueError, match=r"lead_hours = 5: the surrogate was not trained with it; use one of 4"):
            make(trained.config, trained.statistics, 5.0)


# What they start from


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("3", [3]), ("-1", [9]), ("5,0,5", [0, 5]), ("0:10:4", [0, 4, 8]), (":2,8:", [0, 1, 8, 9])],
)
def test_numbers_of_starts(tiny_series, text, numbers):
    source = starts.of_series(tiny_series._replace(count=10), range(10), "series")
    chosen = starts.choose(source, text)
    np.testing.assert_array_equal(chosen.hours, 4.0 * np.array(numbers))
    np.testing.assert_array_equal(chosen.states[:, 0], tiny_series.read(np.array(numbers)))


def test_starts_are_spread_over_a_part_and_its_own_truth_follows(tiny_series):
    source = starts.of_series(tiny_series, range(300, 360), "series")
    chosen = starts.choose(source, count=3, leads=10, lead_hours=8.0, own_truth=True)
    numbers = (chosen.hours / 4.0).astype(int)
    np.testing.assert_array_equal(numbers, [300, 320, 339])  # 20 states before the end
    truth = chosen.later(10)
    assert truth.shape == (3, 1, 2, 16, 16)
    np.testing.assert_array_equal(truth[:, 0], tiny_series.read(numbers + 20))


@pytest.fixture
def analysis(tmp_path, tiny_series):
    """Three members around a truth, three times 4 h apart, of two experiments; the second is not finished."""
    truth = states_of(tiny_series, 3)
    members = truth[:, None] + np.arange(3)[:, None, None, None]
    path = tmp_path / "analysis.nc"
    with analysis_file.AnalysisFile(path, N16, ["EnSF", "LETKF"], 4.0 * np.arange(3), members=5) as file:
        file.write_truth(0, truth)
        file.write("EnSF", 0, members.mean(1), members.std(1), members)
    return path, truth, members


def test_an_analysis_file_gives_ensembles_and_their_truth(analysis):
    path, truth, members = analysis
    source = starts.of_file(path, N16, "EnSF")
    chosen = starts.choose(source, "0", leads=2, lead_hours=4.0, own_truth=True, members=2)
    np.testing.assert_array_equal(chosen.states[0], members[0, :2])  # those that were not written are no members
    np.testing.assert_array_equal(chosen.later(2)[0, 0], truth[2])
    assert starts.choose(source).hours == [8.0]
    with pytest.raises(netcdf.FileError, match="experiment = not given; give one of EnSF, LETKF"):
        starts.of_file(path, N16)
    with pytest.raises(netcdf.FileError, match=r"pv_members\[1\] has values missing"):
        starts.choose(starts.of_file(path, N16, "LETKF"), "1")


# The script


def run(folder, *words):
    return calling.call(calling.script("forecast"), folder, *words)


def test_from_data_to_checkpoint_to_forecast(tiny_training, tmp_path):
    folder, _, _ = tiny_training
    out = tmp_path / "forecast"
    status, said, error = run(folder, "--starts", "3", "--steps", "6", "--save-every", "2", "--out", out)
    assert status == 0, error
    assert "finite: all 6 leads" in said
    assert "wavenumbers 1 to 7" in said
    assert "times as fast" in said
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [float(row["lead_hours"]) for row in rows] == [4.0 * lead for lead in range(7)]
    assert list(rows[0]) == ["lead", "lead_hours", *(n for n in forecast.SCORES if n in rows[0])]
    assert float(rows[1]["rmse"]) < 1.1 * float(rows[1]["persistence"])
    assert {path.name for path in (out / "figures").iterdir()} == {"scores.png", "spectra.png", "snapshots.png"}
    with xarray.open_dataset(out / "forecast.nc", decode_timedelta=False) as data:
        assert data.pv_forecast.dims == data.pv_truth.dims == ("lead", "start", "z", "y", "x")
        np.testing.assert_array_equal(data.lead, [0.0, 8.0, 16.0, 24.0])
        error = N16.kelvin * (data.pv_forecast - data.pv_truth)
        for at, row in enumerate(rows[::2]):
            assert float(np.sqrt((error[at] ** 2).mean())) == pytest.approx(float(row["rmse"]), rel=1e-3, abs=1e-6)
        mean_square = (error**2).mean(("start", "z", "y", "x"))
        np.testing.assert_allclose(data.spectrum_error.sum("wavenumber"), mean_square, rtol=1e-5)  # float32
        assert data.spectrum_truth.units == "K2"
    before = sorted(out.rglob("*"))
    assert run(folder, "--out", out)[0] == 2
    assert sorted(out.rglob("*")) == before


def test_an_ensemble_beside_its_own_truth(tiny_training, tmp_path, analysis):
    path, truth, _ = analysis
    out = tmp_path / "forecast"
    words = ("--start", f"{path}:0", "--experiment", "EnSF", "--truth", "file", "--steps", "2", "--which", "last")
    status, _, error = run(tiny_training[0] / "checkpoints", *words, "--out", out)
    assert status == 0, error
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert {"rmse_sqg", "rmse_mean", "rmse_mean_sqg", "spread", "spread_sqg"} <= set(rows[0])
    assert float(rows[0]["rmse_mean"]) == pytest.approx(N16.kelvin, rel=1e-3)  # members are off by 0, 1 and 2 m/s
    assert float(rows[2]["rmse_sqg"]) < 0.1 * float(rows[2]["persistence"])
    with xarray.open_dataset(out / "forecast.nc", decode_timedelta=False) as data:
        assert data.pv_forecast.dims == ("lead", "member", "start", "z", "y", "x")
        np.testing.assert_array_equal(data.pv_truth[:, 0], truth)


def test_a_forecast_that_is_not_finite_is_said_and_drawn(tiny_training, tmp_path):
    states = 1e30 * np.ones((1, 2, 16, 16), np.float32)
    states[..., ::2] *= -1
    netcdf.create_nature_run(tmp_path / "wild.nc", N16)
    netcdf.append_states(tmp_path / "wild.nc", [0.0], states)
    status, said, error = run(
        tiny_training[0], "--start", tmp_path / "wild.nc", "--steps", "2", "--out", tmp_path / "forecast"
    )
    assert (status, error) == (3, error)
    assert "not finite from lead" in said
    assert (tmp_path / "forecast" / "figures" / "scores.png").exists()


def other_grid(tmp_path, folder):
    netcdf.create_nature_run(tmp_path / "other.nc", sqg.SQGConfig(N=32))
    netcdf.append_states(tmp_path / "other.nc", [0.0], np.ones((1, 2, 32, 32)))
    return folder, "--start", tmp_path / "other.nc"


def damaged(change):
    def damage(tmp_path, folder):
        shutil.copytree(folder, tmp_path / "damaged")
        for path in (tmp_path / "damaged" / "checkpoints").iterdir():  # the best and the last
            change(path)
        return (tmp_path / "damaged",)

    return damage


def meta(change):
    def edit(checkpoint):
        path = checkpoint / "meta" / "metadata"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        checksums.write(checkpoint)  # as a program that writes such ones would

    return damaged(edit)


def truncate(checkpoint):
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def words(*more):
    return lambda tmp_path, folder: (folder, *more)


BAD = [
    (lambda tmp_path, folder: (tmp_path / "none",), "none: no such folder; give one that scripts/train_vit.py wrote"),
    (lambda tmp_path, folder: (tmp_path,), "holds no whole checkpoint; give a folder"),
    (damaged(truncate), "none of its checkpoints is whole"),
    (meta(lambda m: m.pop("statistics")), "its statistics are missing"),
    (meta(lambda m: m["statistics"].pop("std")), "are not a mean and a std of 2 variables"),
    (meta(lambda m: m["settings"]["vit"].update(depth=3)), "the checkpoint is of another architecture or grid"),
    (meta(lambda m: m["settings"]["vit"].update(depth="x")), "its settings cannot be used: vit.depth = x"),
    (words("--start", "none.nc"), "none.nc: no such file"),
    (other_grid, "(z, y, x) = (2, 32, 32), but the surrogate's states are (2, 16, 16)"),
    (words("--start", "{file}:400"), "400 is out of range; it has states 0 to 359"),
    (words("--start", "{file}:1-2"), "1-2 are not numbers of states"),
    (words("--start", "{file}:350", "--truth", "file", "--steps", "20"), "has 9 leads after state 350, 20 asked"),
    (words("--start", "{file}:0", "--starts", "3"), "--starts 3: --start"),
    (words("--start", "{file}", "--members", "2"), "holds 1 members, 2 asked; use fewer"),
    (words("--start", "{file}", "--experiment", "EnSF"), "experiment = EnSF: the file has none; leave it out"),
    (words("--truth", "file", "--steps", "100"), "series held out: has 360 states, from 326 on to start from, too few"),
    (words("--members", "2"), "--members 2: is of states in a file; give --start too"),
    (words("--steps", "0"), "0 is not a whole number from 1 on"),
    (words("--lead-hours", "5"), "lead_hours = 5: the surrogate was not trained with it; use one of 4"),
    (words("--out", "{file}"), "is not an empty folder; give another --out"),
]


@pytest.mark.parametrize(("make", "said"), BAD, ids=[said[:30] for _, said in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(tiny_training, tmp_path, monkeypatch, make, said):
    folder, file, _ = tiny_training
    monkeypatch.chdir(tmp_path)
    given = [str(word).format(file=file) for word in make(tmp_path, folder)]
    before = sorted(tmp_path.rglob("*"))
    status, out, error = run(*given)
    assert (status, out) == (2, ""), error
    assert said in error
    assert error.strip().splitlines()[-1].startswith("forecast.py: ")
    assert sorted(tmp_path.rglob("*")) == before
