"""The figures of a run from its files: its own truth and observations, drawn again, and with files missing."""

import dataclasses

import calling
import jax
import jax.numpy as jnp
import netCDF4
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda import diagnostics, experiment, figures, observations, twin
from jaxda.experiment import Record
from jaxda.output import analysis_file, diagnostics_file, report
from jaxda.output.netcdf import FileError

N, CYCLES, MEMBERS = 16, 6, 6
TEXT = f"""
title = "small"
members = {MEMBERS}
cycles = {CYCLES}
[model]
kind = "sqg"
N = {N}
[shocks]
kind = "transient"
[observations]
fraction = 0.5
[output]
members = true
[filters.halved]
kind = "free-run"
[filters.calm]
kind = "free-run"
shocks = false
"""


def cycled(config, truth):
    """Scores and fields of a filter that pulls members half-way to what is observed, and forecasts nothing."""
    operator = observations.make_operator(config.observations, config.model.shape, config.kelvin)
    observe = observations.make_network(config.observations, operator)

    def pull(key, ensemble, observation):
        at = jnp.where(observation.precision > 0, observation.values / config.kelvin, ensemble)
        return ensemble + 0.5 * (jnp.nan_to_num(at) - ensemble)

    first = truth[0] + 1000.0 * jax.random.normal(jax.random.key(1), (MEMBERS, *config.model.shape))
    run = jax.jit(
        lambda key, first, truth: twin.cycle(
            key, first, truth, forecast=lambda key, x: x, observe=observe, analysis=pull, scale=config.kelvin,
            keep_members=True, spectra=diagnostics.make_spectra(config.model),
        )
    )  # fmt: skip
    return run(experiment.keys(config.seed)["cycles"], first, truth)[1]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Configuration, folder and fields by name of a run whose second filter sees another truth."""
    folder = tmp_path_factory.mktemp("figures") / "run"
    folder.mkdir()
    (folder / "a.toml").write_text(TEXT)
    config = configuration.read(folder / "a.toml")
    configuration.write(folder / "config.toml", config)
    truth = 2000.0 * jax.random.normal(jax.random.key(0), (CYCLES, *config.model.shape))
    truths = {"halved": truth, "calm": 0.5 * truth}
    hours = config.interval_hours * np.arange(CYCLES)
    names = list(config.filters)
    detail = diagnostics_file.DiagnosticsFile(
        folder / diagnostics_file.NAME, config.model, dict.fromkeys(names, MEMBERS), hours
    )
    file = analysis_file.AnalysisFile(folder / "analysis.nc", config.model, names, hours, members=MEMBERS)
    file.write_truth(0, truth)
    found, records = {}, {}
    for name, own in truths.items():
        scores, fields = jax.tree.map(np.asarray, cycled(config, own))
        found[name], records[name] = (fields, own), Record(scores, "ok", 1.0, 0.1)
        file.write(name, 0, fields.mean, fields.spread, fields.members)
        for first in (0, 4):  # in two chunks
            some = slice(first, first + 4)
            chunk = jax.tree.map(lambda a, some=some: a[some], fields)
            detail.write(name, first, chunk, np.asarray(own[some][-1]))
    report.write_scores(folder, records, config.interval_hours)
    return config, folder, found


def test_the_file_holds_what_was_diagnosed(ran):
    config, folder, found = ran
    stored = diagnostics_file.read(folder / diagnostics_file.NAME, dict.fromkeys(config.filters, MEMBERS))
    assert list(stored) == ["halved", "calm"]
    for name, own in stored.items():
        fields, truth = found[name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), own.detail, fields.detail)
        np.testing.assert_allclose(own.truth, truth[-1], rtol=1e-6)
        np.testing.assert_allclose(own.spread, fields.spread[-1], rtol=1e-6)
        ranks = (fields.members < np.asarray(truth)[:, None]).sum(1).reshape(CYCLES, -1)
        expected = [np.bincount(row, minlength=MEMBERS + 1) for row in ranks]
        np.testing.assert_array_equal(own.detail.ranks, expected)
        error = config.kelvin * (fields.mean - np.asarray(truth))
        np.testing.assert_allclose(own.detail.skill.square.sum(1), (error**2).sum((1, 2, 3)), rtol=1e-5)
        of_error = own.detail.spectra[:, diagnostics.PARTS.index("error"), 0]
        np.testing.assert_allclose(of_error.sum(-1), (error**2).mean((1, 2, 3)), rtol=1e-4)


def test_a_file_of_an_earlier_version_is_said_to_be_one(tmp_path):
    with netCDF4.Dataset(tmp_path / "old.nc", "w") as nc:
        for name in ("experiment", "t", "rank"):
            nc.createDimension(name, 2)
        nc.createVariable("ranks", "i4", ("experiment", "t", "rank"))
    with pytest.raises(FileError, match=r"old\.nc: is of an earlier version; run scripts/osse\.py again"):
        diagnostics_file.read(tmp_path / "old.nc", {"LETKF": 1})


def test_all_are_drawn_and_again_the_same(ran):
    _, folder, _ = ran
    drawn, missing = figures.draw(folder)
    assert not missing
    assert {path.stem for path in drawn} == set(figures.STANDARD)
    before = {path: path.read_bytes() for path in drawn}
    assert all(len(content) > 5_000 for content in before.values())
    status, out, error = calling.call(calling.script("figures"), folder)
    assert (status, error) == (0, "")
    assert len(out.splitlines()) == len(drawn)
    assert {path: path.read_bytes() for path in drawn} == before


def test_rows_without_shocks_have_their_own_panel_and_truth(ran, monkeypatch):
    config, folder, found = ran
    panels, shown = {}, {}
    monkeypatch.setattr(figures.series_plots, "rmse_against_time", lambda path, own, *_: panels.update(own))
    monkeypatch.setattr(figures.field_plots, "snapshot", lambda path, own, *_: shown.update({path.stem: own}))
    figures.draw(folder)
    assert {panel: list(own) for panel, own in panels.items()} == {
        "with shocks": ["halved"],
        "without shocks": ["calm"],
    }
    for level, boundary in enumerate(("lower", "upper")):
        for name, own in shown[f"snapshot_{boundary}"].items():
            np.testing.assert_allclose(own.truth, config.kelvin * found[name][1][-1, level], rtol=1e-5)
            np.testing.assert_allclose(own.mean, config.kelvin * found[name][0].mean[-1, level], rtol=1e-5)


@pytest.mark.parametrize("shocks", ["none", "transient"])
def test_rows_alike_share_one_panel(ran, monkeypatch, shocks):
    config, folder, _ = ran
    same = config.filters | {"calm": dataclasses.replace(config.filters["calm"], shocks=shocks == "none")}
    if shocks == "transient":
        same = {name: dataclasses.replace(own, shocks=True) for name, own in config.filters.items()}
    config = dataclasses.replace(config, filters=same, shocks=twin.ShockConfig(kind=shocks))
    panels = {}
    monkeypatch.setattr(figures.series_plots, "rmse_against_time", lambda path, own, *_: panels.update(own))
    figures.errors_of(config, figures.scores_of(folder / "scores.csv"), folder / "x.png")
    assert [list(own) for own in panels.values()] == [["halved", "calm"]]


@pytest.mark.parametrize(
    ("settings", "unit", "scale"),
    [({}, "K", 1.0), ({"operator": "identity"}, "K", None), ({"operator": "arctan"}, "1", 1.0)],
)
def test_the_observations_shown_are_those_of_the_cycle(ran, settings, unit, scale):
    config, _, found = ran
    config = dataclasses.replace(config, observations=dataclasses.replace(config.observations, **settings))
    truth = np.asarray(found["halved"][1][3])
    operator = observations.make_operator(config.observations, config.model.shape, config.kelvin)
    observe = observations.make_network(config.observations, operator)
    expected = observe(twin.keys(experiment.keys(config.seed)["cycles"], 3).observe, truth)
    seen = figures.observed(config, truth, 3)
    for level, own in enumerate(seen):
        given = np.asarray(expected.precision[level]) > 0
        np.testing.assert_array_equal(np.isfinite(own.values), given)
        wanted = (scale or config.kelvin) * np.asarray(expected.values[level])[given]
        np.testing.assert_allclose(own.values[given], wanted, rtol=1e-6)
        assert own.unit == unit


def test_observations_between_grid_points_are_at_their_places(ran):
    config, _, found = ran
    places = ((0, 1.5, 3.0), (1, 7.0, 2.25), (1, 0.0, 15.5))
    config = dataclasses.replace(
        config, observations=observations.ObservationConfig(positions=places, boundary="both", sigma=1e-3)
    )
    truth = np.asarray(found["halved"][1][0])
    lower, upper = figures.observed(config, truth, 0)
    spacing = config.model.L / N
    np.testing.assert_allclose([lower.y, lower.x], spacing * np.array([[2.0], [3.5]]))
    np.testing.assert_allclose([upper.y, upper.x], spacing * np.array([[7.5, 0.5], [2.75, 16.0]]))
    between = config.kelvin * 0.5 * (truth[0, 1, 3] + truth[0, 2, 3])
    assert float(lower.values[0]) == pytest.approx(between, abs=0.01)


# Folders that lack something


def copy(ran, tmp_path, *names):
    config, folder, _ = ran
    for name in ("config.toml", *names):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return config, tmp_path


def test_what_is_missing_is_said_and_the_rest_is_drawn(ran, tmp_path):
    _, folder = copy(ran, tmp_path, "scores.csv")
    status, out, _ = calling.call(calling.script("figures"), folder)
    assert status == 3
    said = out.replace("\n", "")
    assert said.startswith(str(folder / "figures" / "rmse.png"))
    assert said.count("not drawn: ") == said.count("no such file") == len(figures.STANDARD) - 1


@pytest.mark.parametrize("rows", ["", "a,b\n1,2\n", "experiment,time_h,rmse_a\nhalved,0\n"])
def test_a_table_that_is_none_is_said(tmp_path, rows):
    (tmp_path / "scores.csv").write_text(rows)
    if not rows:
        assert figures.scores_of(tmp_path / "scores.csv") == {}
        return
    with pytest.raises(FileError, match=r"scores.csv: is no table of scores .*; run scripts/osse.py again"):
        figures.scores_of(tmp_path / "scores.csv")


@pytest.mark.parametrize("scores", [{}, {"other": {"rmse_a": np.ones(3)}}])
def test_rows_of_another_run_are_said(ran, tmp_path, scores):
    with pytest.raises(FileError, match="has no row of an experiment"):
        figures.errors_of(ran[0], scores, tmp_path / "x.png")


def test_a_filter_that_has_not_begun_is_left_out(ran, tmp_path):
    config, _, found = ran
    file = diagnostics_file.DiagnosticsFile(
        tmp_path / "a.nc", config.model, dict.fromkeys(config.filters, MEMBERS), 12.0 * np.arange(CYCLES)
    )
    fields, truth = found["halved"]
    file.write("calm", 0, jax.tree.map(lambda a: a[:2], fields), np.asarray(truth[1]))
    stored = diagnostics_file.read(tmp_path / "a.nc", dict.fromkeys(config.filters, MEMBERS))
    assert list(stored) == ["calm"]
    assert len(stored["calm"].detail.ranks) == 2
    with pytest.raises(ValueError, match="exists already"):
        diagnostics_file.DiagnosticsFile(tmp_path / "a.nc", config.model, {"halved": MEMBERS}, np.arange(3.0))


# Films


def test_a_film_shows_the_analyses_of_one_experiment(ran, tmp_path, monkeypatch):
    config, folder, found = ran
    script, shown = calling.script("animate"), {}
    film = lambda path, truth, mean, hours, name, *_: shown.update({name: (truth, mean, hours)})
    monkeypatch.setattr(script.animation, "film", film)
    out = tmp_path / "a.gif"
    assert calling.call(script, folder, "--filter", "halved", "--boundary", "lower", "--out", out)[0] == 0
    truth, mean, hours = shown["halved"]
    fields, true = found["halved"]
    np.testing.assert_allclose(truth, config.kelvin * np.asarray(true)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(mean, config.kelvin * fields.mean[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(hours, 12.0 * np.arange(CYCLES))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--filter", "other"], "--filter other: is none of the run's experiments; use one of halved, calm"),
        (["--filter", "calm"], "--filter calm: its truth is without shocks and not in analysis.nc"),
        (["--filter", "halved", "--out", "a.avi"], "a.avi: ends in none of .gif, .mp4"),
    ],
)
def test_a_film_that_cannot_be_is_refused(ran, words, said):
    _, folder, _ = ran
    before = sorted(folder.rglob("*"))
    status, out, error = calling.call(calling.script("animate"), folder, *words)
    assert (status, out) == (2, "")
    assert error.startswith(f"animate.py: {said}")
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


# The paper's figures


def test_the_papers_figures_are_drawn_from_what_is_given(ran, tmp_path):
    _, folder, _ = ran
    rates = tmp_path / "rates.json"
    rates.write_text('{"heatmap": [[2, 4, 64, 1e12], [2, 8, 64, null], [4, 4, 64, 2e12], [4, 8, 64, 3e12]]}')
    script, out = calling.script("paper_figures"), tmp_path / "paper"
    status, said, error = calling.call(script, "--out", out, "--run", folder, "--rates", rates)
    assert (status, error) == (0, "")
    assert {path.name for path in out.iterdir()} == {"work.png", "collectives.png", "rmse.png", "rates.png"}
    assert said.splitlines()[-1] == "--plan: not given; left out"
