"""Figures of a run: rows without its shocks have a panel of their own, and their own truth."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxda import config as configuration
from jaxda.output import plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function: rows (name -> whether it has shocks) -> names in each panel, and the truth of each row's snapshot."""
    panels, truths = {}, {}
    error = lambda path, found, *_: panels.update({panel: list(records) for panel, records in found.items()})
    monkeypatch.setattr(plots, "rmse_against_time", error)
    monkeypatch.setattr(plots, "snapshot", lambda path, found, *_: truths.update(found))

    def draw(rows, kind="transient"):
        file = tmp_path / "a.toml"
        file.write_text('[model]\nkind = "lorenz96"\ndim = 8\n[filters.a]\nkind = "letkf"\ncutoff = 5.0\n')
        filters = {f"filters.{name}": {"kind": "free-run", "shocks": shocks} for name, shocks in rows.items()}
        config = configuration.read(file, filters | {"filters.a.shocks": rows["a"], "shocks.kind": kind})
        states = {name: np.full(8, float(shocks)) for name, shocks in rows.items()}
        plots.of_run(tmp_path / "figures", config, dict.fromkeys(rows), np.arange(3.0), states, states)
        return panels, truths

    return draw


def test_rows_without_shocks_have_their_own_panel_and_truth(drawn):
    panels, truths = drawn({"a": True, "b": False, "c": True})
    assert panels == {"with shocks": ["a", "c"], "without shocks": ["b"]}
    assert {name: truth[0] for name, truth in truths.items()} == {"a": 1.0, "b": 0.0, "c": 1.0}


@pytest.mark.parametrize("shocks", [True, False])
def test_rows_alike_share_one_panel(drawn, shocks):
    panels, _ = drawn({"a": shocks, "b": shocks})
    assert list(panels.values()) == [["a", "b"]]


def test_where_nothing_shocks_there_is_one_panel(drawn):
    panels, _ = drawn({"a": True, "b": False}, "none")
    assert list(panels.values()) == [["a", "b"]]


def test_two_panels_are_drawn_one_below_the_other(tmp_path):
    record = SimpleNamespace(scores=SimpleNamespace(rmse_a=np.linspace(0.5, 2.0, 7)))
    heights = []
    for count in (1, 2):
        path = tmp_path / f"{count}.png"
        plots.rmse_against_time(path, {str(i): {"a": record} for i in range(count)}, np.arange(7.0), "K", 1.0)
        heights.append(int.from_bytes(path.read_bytes()[20:24], "big"))
    assert heights[1] > 1.5 * heights[0]


@pytest.mark.parametrize(("other", "labels"), [(1.0, ["truth"]), (0.0, ["truth of a", "truth of b"])])
def test_every_truth_of_a_long_state_is_drawn(monkeypatch, tmp_path, other, labels):
    drawn = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    truths = {"a": np.ones(8), "b": np.full(8, other), "c": np.ones(8)}
    plots.snapshot(tmp_path / "x.png", truths, dict.fromkeys(truths, np.zeros(8)), 0.0, "title")
    found = [line.get_label() for line in drawn[0].axes[0].get_lines()]
    assert found == [*labels, "a", "b", "c"]
