"""Figures of runs: what is drawn where, read from the figure before it is written."""

import ast
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxda import diagnostics
from jaxda.diagnostics import SpreadSkill
from jaxda.output import animation, field_plots, reliability_plots, series_plots, spectrum_plots, style
from jaxda.output.field_plots import Seen, Shown


@pytest.fixture
def drawn(monkeypatch):
    """Figures in the order in which they were to be written."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    return found


def test_colours_and_lines_tell_28_curves_apart():
    assert len({tuple(style.of_number(i).values()) for i in range(28)}) == 28


def test_two_panels_are_drawn_one_below_the_other(tmp_path):
    heights = []
    for count in (1, 2):
        path = tmp_path / f"{count}.png"
        panels = {str(i): {"a": np.linspace(0.5, 2.0, 7)} for i in range(count)}
        series_plots.rmse_against_time(path, panels, np.arange(7.0), "K", 1.0)
        heights.append(int.from_bytes(path.read_bytes()[20:24], "big"))
    assert heights[1] > 1.5 * heights[0]


def test_dollars_in_titles_and_names_begin_no_formula(tmp_path):
    path = tmp_path / "a.png"
    series_plots.rmse_against_time(
        path, {"": {r"$\frac$": np.linspace(0.5, 2.0, 7)}}, np.arange(7.0), "K", 1.0, r"$\x$"
    )
    assert path.stat().st_size > 1000


def test_our_own_words_need_no_formula():
    """`style.save` draws none: a dollar of ours would be seen."""
    modules = [path for path in Path(style.__file__).parent.glob("*.py") if "plots" in path.name]
    assert len(modules) > 5
    for path in modules:
        words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [word for word in words if isinstance(word, str) and "$" in word], path


def test_errors_are_drawn_against_days_with_the_observation_error(drawn):
    error = np.linspace(0.5, 2.0, 7)
    series_plots.rmse_against_time("x.png", {"": {"a": error}}, 12.0 * np.arange(7), "K", np.array([1.0, 2.0]))
    series, *levels = drawn[0].axes[0].get_lines()
    np.testing.assert_allclose(series.get_xydata(), np.stack([0.5 * np.arange(7), error], 1))
    assert [line.get_ydata()[0] for line in levels] == [1.0, 2.0]
    assert drawn[0].axes[0].get_ylabel() == "analysis RMSE [K]"


@pytest.mark.parametrize(("other", "labels"), [(1.0, ["truth"]), (0.0, ["truth of a", "truth of b"])])
def test_every_truth_of_a_long_state_is_drawn(drawn, other, labels):
    truths = {"a": np.ones(8), "b": np.full(8, other), "c": np.ones(8)}
    shown = {name: Shown(truth, np.zeros(8), np.ones(8)) for name, truth in truths.items()}
    field_plots.snapshot("x.png", shown, None, 0.0, "title")
    found = [line.get_label() for line in drawn[0].axes[0].get_lines()]
    assert found == [*labels, "a", "b", "c"]


def images(figure):
    return {axes.get_title(): axes.get_images()[0] for axes in figure.axes if axes.get_images()}


def test_a_snapshot_shows_truth_observations_mean_error_and_spread(drawn):
    rng = np.random.default_rng(0)
    truth, mean, spread = rng.normal(size=(3, 8, 8))
    values = np.where(rng.uniform(size=(8, 8)) < 0.5, truth, np.nan)
    shown = {"a": Shown(truth, mean, np.abs(spread)), "b": Shown(truth + 1.0, truth, 2 * np.abs(spread))}
    field_plots.snapshot("x.png", shown, Seen(values, "K"), 2e7, "title")
    found = images(drawn[0])
    wanted = {"truth": truth, f"{np.isfinite(values).sum()} observations": values, "truth of b": truth + 1.0, "a": mean}
    wanted |= {f"error, RMS {np.sqrt(((mean - truth) ** 2).mean()):.2f} K": mean - truth, "error, RMS 1.00 K": -1.0}
    for title, field in wanted.items():
        np.testing.assert_allclose(found[title].get_array().filled(np.nan), np.broadcast_to(field, (8, 8)))
    # error and spread of a row have one scale
    rows = [image for title, image in found.items() if title.startswith(("error", "spread"))]
    assert rows[0].get_clim()[1] == rows[1].get_clim()[1]
    assert {axes.get_ylabel() for axes in drawn[0].axes} <= {"K", "", "y [1000 km]"}


def test_observations_at_places_are_points_there(drawn):
    truth = np.random.default_rng(0).normal(size=(8, 8))
    seen = Seen(np.array([0.5, -0.3]), "1", np.array([1e6, 5e6]), np.array([2e6, 1.9e7]))
    field_plots.snapshot("x.png", {"a": Shown(truth, truth, truth**2)}, seen, 2e7)
    points = next(axes for axes in drawn[0].axes if axes.get_title() == "2 observations").collections[0]
    np.testing.assert_allclose(points.get_offsets(), [[1.0, 2.0], [5.0, 19.0]])
    np.testing.assert_allclose(points.get_array(), seen.values)


def test_bars_of_a_flat_histogram_are_one_and_the_band_is_theirs(drawn):
    counts = np.full(5, 200.0)
    reliability_plots.rank_histograms("x.png", {"a": (counts, 4.0, diagnostics.flatness(counts, 4.0))})
    axes = drawn[0].axes[0]
    band, *bars = axes.patches
    assert [bar.get_height() for bar in bars] == [1.0] * 5
    half = 1.96 * np.sqrt(4.0 * 4 / 1000)  # of a binomial share of 1/5, times the design effect
    np.testing.assert_allclose(band.get_xy()[1], 1 - half)
    np.testing.assert_allclose(band.get_height(), 2 * half)
    assert axes.get_xlabel() == "slope +0.0, convexity +0.0"


def test_reliable_bins_are_on_the_diagonal_and_two_members_are_left_out(drawn):
    variance = np.array([1.0, 4.0, 9.0])
    sums = SpreadSkill(np.full(3, 10.0), 10.0 * variance, 10.0 * variance * (1 + 1 / 20))
    rare = SpreadSkill(np.array([1e6, 1.0, 0.0]), np.array([1e6, 5.0, 0.0]), np.array([2e6, 9.0, 0.0]))
    reliability_plots.spread_skill("x.png", {"a": (sums, 20), "two": (sums, 2), "rare": (rare, 8)}, "K")
    one, other, _ = drawn[0].axes[0].get_lines()
    np.testing.assert_allclose(one.get_xdata(), one.get_ydata())
    assert (one.get_label(), other.get_label(), len(other.get_xdata())) == ("a", "rare", 1)


def test_spectra_are_drawn_from_the_longest_wave_to_the_last_whole_ring(drawn):
    spectra = np.geomspace(8.0, 0.01, 17) * np.array([1.0, 0.9, 0.1, 0.1])[:, None]
    spectrum_plots.of_parts("x.png", {"a": spectra}, {"a": 5e6}, 2e7, "variance [K²]")
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    for part, own in zip(diagnostics.PARTS, spectra, strict=True):
        np.testing.assert_allclose(lines[part].get_xydata(), np.stack([np.arange(1, 16), own[1:-1]], 1))
    slope = np.polyfit(*np.log(lines["slope \N{MINUS SIGN}5/3"].get_xydata()).T, 1)[0]
    assert slope == pytest.approx(-5 / 3)
    assert axes.texts[0].get_text() == "resolved: 5000 km"
    assert axes.get_lines()[-1].get_xdata()[0] == 4.0


def test_members_are_drawn_beside_the_truth_and_what_was_seen(drawn):
    members, truth = np.random.default_rng(0).normal(size=(4, 3)), np.arange(4.0)
    seen = np.array([np.nan, 1.0, 2.0, np.nan])
    series_plots.plume("x.png", {"a": members}, truth, seen, 12.0 * np.arange(4), "temperature [K]")
    found = drawn[0].axes[0].get_lines()
    np.testing.assert_array_equal([line.get_ydata() for line in found[:3]], members.T)
    np.testing.assert_array_equal([line.get_ydata() for line in found[3:]], [truth, seen])


def test_a_training_is_drawn_by_lead(drawn):
    rows = {
        "step": [1, 2],
        "loss": [0.4, 0.3],
        "learning_rate": [0.1, 0.0],
        "rmse_10": [9.0, 7.0],
        "rmse_2": [3.0, 2.0],
    }
    rows |= {"persistence_10": [8.0, 8.0], "persistence_2": [4.0, 4.0], "rmse_all": [0.0, 0.0]}
    series_plots.training("x.png", {name: np.array(own) for name, own in rows.items()})
    labels = [line.get_label() for line in drawn[0].axes[1].get_lines()]
    assert [own for own in labels if own.startswith("lead")] == ["lead 2", "lead 10"]


# Films


@pytest.mark.parametrize("shape", [(8, 8), (12,)])
def test_a_film_has_a_frame_a_cycle(tmp_path, shape):
    image = pytest.importorskip("PIL.Image")
    truth, mean = np.random.default_rng(0).normal(size=(2, 3, *shape))
    path = tmp_path / "a.gif"
    animation.film(path, truth, mean, 12.0 * np.arange(3), "a", 2e7, rate=2)
    with image.open(path) as film:
        assert (film.format, film.n_frames) == ("GIF", 3)
        frames = []
        for number in range(3):
            film.seek(number)
            assert film.info["duration"] == 500
            frames.append(np.asarray(film.convert("RGB"), float))
    assert np.abs(frames[0] - frames[1]).max() > 20


def test_what_cannot_be_a_film_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ends in none of .gif, .mp4"):
        animation.make_writer(tmp_path / "a.avi", 4)
    monkeypatch.setattr(animation, "ffmpeg", lambda: None)
    with pytest.raises(ValueError, match="there is no ffmpeg; pip install"):
        animation.make_writer(tmp_path / "a.mp4", 4)
