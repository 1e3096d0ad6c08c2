"""scripts/report.py: one page about runs, which fetches nothing, escapes what is in a folder and says what is not."""

import base64
import contextlib
import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import warnings

import calling
import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from jaxda.output import findings, html_report, open_run, run_folder, table_plots, tabled

script = calling.script("report")
STATUS = """cycle,time_h,status,file,lateness_s,innovation_rms,expected_rms,spread_a,replaced,waiting_s,analysis_s
0,0,analysed,a.nc,0,1.5,1.4,0.9,0,0.1,2.0
1,12,missing,,0,nan,nan,1.2,0,2.5,0
2,24,analysed,c.nc,7,1.25,1.3,0.8,3,0.1,3.0
"""
EVENTS = 'clock,cycle,decision,file,reason\n2026-01-01T00:00:00Z,,rejected,<b>.nc,"bad, ""very"" bad"\n'
LOG = "step,loss,seconds,samples_per_second,rmse_1,persistence_1\n10,0.5,3.1,70,2.0,1.8\n20,0.2,6.2,80,1.9,1.8\n"


class Page(html.parser.HTMLParser):
    """Tags, their attributes, the text outside of scripts and styles, and cells by table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.tables, self._inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag  # every tag is closed, in its order

    def handle_data(self, data):
        if self._inside and self._inside[-1] not in ("script", "style"):
            self.text.append(data)
        if "td" in self._inside or "th" in self._inside:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def run(small_twin, tmp_path):
    shutil.copytree(small_twin, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def realtime(tmp_path):
    folder = tmp_path / "realtime"
    folder.mkdir()
    (folder / "realtime.toml").write_text('title = "Real"\ncycles = 4\ninterval_hours = 12.0\n[model]\nkind = "sqg"\n')
    (folder / "status.csv").write_text(STATUS)
    (folder / "events.csv").write_text(EVENTS)
    return folder


@pytest.fixture
def training(tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "log.csv").write_text(LOG)
    (folder / "config.toml").write_text('title = "ViT"\n[train]\nsteps = 20\n[model]\nkind = "sqg"\n')
    return folder


def report(tmp_path, *folders):
    """The page, and what the script said."""
    status, said, error = calling.call(script, *folders, "--out", tmp_path / "report.html")
    assert status == 0, error
    return Page((tmp_path / "report.html").read_text(encoding="utf-8")), said


def test_the_page_of_a_run_has_all_of_it(run, tmp_path):
    page, said = report(tmp_path, run)
    text = "".join(page.text)
    assert said == f"written to {tmp_path / 'report.html'}\n"
    for words in ("No warnings", "Figures", "Timings", "To run it again", "Settings", "Reproducibility record"):
        assert words in text
    scores = page.tables[0]
    summary = json.loads((run / "scores.json").read_text())["scores"]
    assert [row[0] for row in scores[1:]] == list(summary)
    for row, own in zip(scores[1:], summary.values()):
        assert float(row[1]) == pytest.approx(own["all"]["rmse_a"], abs=1e-3)
        assert float(row[2]) == pytest.approx(own["last_third"]["rmse_a"], abs=1e-3)
        assert row[-1] == "ok"
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    stored = sorted(path.read_bytes() for path in (run / "figures").glob("*.png"))
    assert sorted(base64.b64decode(source.split(",", 1)[1]) for source in pictures) == stored
    settings = {row[0]: row[1] for table in page.tables for row in table}
    assert settings["filters.data (4).members"] == "4"
    assert settings["jax"] == json.loads((run / "record.json").read_text())[0]["versions"]["jax"]
    assert f"osse.py {run / 'config.toml'} --out NEW_FOLDER" in text


def test_it_is_one_file_that_fetches_nothing_and_runs_nothing_of_a_folder(run, realtime, training, tmp_path):
    page, _ = report(tmp_path, run, realtime, training)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # the title of the run would be another
    assert "<script>alert(1)</script>" in "".join(page.text)
    assert "<b>.nc" in "".join(page.text)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "a", "b"}
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")}, tag
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:image/png;base64,"[: len("data:")])
    source = (tmp_path / "report.html").read_text()
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "", source)
    assert "http" not in outside
    assert "url(" not in outside
    assert "@import" not in outside


def test_tables_can_be_sorted_by_what_their_cells_carry(run, tmp_path):
    page, _ = report(tmp_path, run)
    assert ("table", {"class": "sortable"}) in page.tags
    keys = [attributes["data-key"] for tag, attributes in page.tags if tag == "td"]
    assert "free-run" in keys
    assert any(np.isfinite(float(key)) for key in keys if re.fullmatch(r"[\d.]+", key))


@pytest.mark.long
def test_a_click_sorts_in_a_browser(run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    report(tmp_path, run)
    click = (
        "<script>for (const i of [1, 1]) document.querySelectorAll('table')[0].querySelectorAll('button')[i].click();"
    )
    source = (tmp_path / "report.html").read_text().replace("</body>", f"{click}</script></body>")
    (tmp_path / "clicked.html").write_text(source)
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'browser'} --dump-dom"
    words = [chromium, *options.split(), (tmp_path / "clicked.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    errors = [float(row[1]) for row in Page(done.stdout).tables[0][1:]]
    assert errors == sorted(errors, reverse=True)
    assert 'aria-sort="descending"' in done.stdout


def test_several_runs_say_what_differs(run, tmp_path):
    shutil.copytree(run, tmp_path / "other" / "run")
    config = tmp_path / "other" / "run" / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 7", 1))
    page, _ = report(tmp_path, run, tmp_path / "other" / "run")
    first, second = f"{tmp_path.name}/run", "other/run"
    assert [row[:2] for row in page.tables[0][1:]] == [
        [first, "free-run"], [first, "data (4)"], [second, "free-run"], [second, "data (4)"],
    ]  # fmt: skip
    assert page.tables[1] == [["setting", first, second], ["seed", "0", "7"]]


def test_runs_of_two_kinds_are_not_compared(realtime, training, tmp_path):
    page, _ = report(tmp_path, realtime, training)
    assert "What differs" not in "".join(page.text)


def test_a_real_time_run(realtime, tmp_path):
    page, said = report(tmp_path, realtime)
    text = "".join(page.text)
    assert "not finished: 3 of 4 cycles" in said
    assert "1 of 3 cycles had no observations in time" in text
    assert "1 cycles were late, by up to 7 s" in text
    assert "3 members were replaced" in text
    assert "1 file rejected" in text
    assert sum(tag == "img" for tag, _ in page.tags) == 1  # drawn from status.csv
    assert ["analysis", "2.000", "3.000"] in page.tables[0]


def test_a_training(training, tmp_path):
    page, _ = report(tmp_path, training)
    text = "".join(page.text)
    assert "no better than persistence: RMSE 1.9 K, persistence 1.8 K" in text
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert ["10", "3.1", "70.0"] in page.tables[0]


def test_what_is_not_there_is_said_and_the_rest_shown(run, tmp_path):
    rows = (run / "scores.csv").read_text().splitlines()
    (run / "scores.csv").write_text("\n".join(rows[:14]))  # 4 cycles of the second
    for name in ("scores.json", "record.json", "config.toml"):
        (run / name).unlink()
    shutil.rmtree(run / "analysis.zarr")
    (run / "figures" / "rmse.png").write_bytes(b"not a picture")
    page, said = report(tmp_path, run)
    for name in ("scores.json", "record.json", "config.toml", "analysis.nc"):
        assert f"{name}: not there" in said
    assert "rmse.png: no PNG" in said
    assert all(line.removeprefix("not there: run: ") in "".join(page.text) for line in said.splitlines()[:-1])
    assert [row[-2] for row in page.tables[0][1:]] == ["9", "4"]


@pytest.mark.parametrize("keep", ["config.toml", "scores.csv", "scores.json", "figures"])
def test_one_piece_of_a_run_is_enough(run, tmp_path, keep):
    for path in run.iterdir():
        if path.name not in (keep, "scores.csv" if keep == "figures" else keep):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page, said = report(tmp_path, run)
    assert "not there" in said
    figures = sum(tag == "img" for tag, _ in page.tags)
    stored = len(list((run / "figures").glob("*.png")))
    assert figures == {"figures": stored, "scores.csv": 1}.get(keep, 0)  # drawn anew where there are scores


def series(error, spread, replaced=0):
    own = {"rmse_a": np.full(6, error), "spread_a": np.full(6, spread), "replaced": np.full(6, replaced)}
    return [{"experiment": "", "cycle": str(k), **{n: str(v[k]) for n, v in own.items()}} for k in range(6)]


def made_of(**experiments):
    """A run whose experiments have (kind, error, spread, members replaced a cycle)."""
    rows = [row | {"experiment": n} for n, (_, *own) in experiments.items() for row in series(*own)]
    settings = {"filters": {n: {"kind": own[0]} for n, own in experiments.items()}, "model": {"kind": "sqg"}}
    return run_folder.RunFolder(None, run_folder.TWIN, settings, {"scores.csv": rows}, {}, [], [], [])


def test_warnings_of_twin_experiments():
    good = {"free": ("free-run", 5.0, 5.0), "copy": ("observations-only", 1.0, 0.2)}
    assert findings.of_run(made_of(**good, fine=("letkf", 0.5, 0.5))) == []
    doubted = {"narrow": ("letkf", 0.5, 0.3), "wide": ("ensf", 0.5, 0.7), "bad": ("ensf", 1.0, 1.0)}
    lines = findings.of_run(made_of(**good, **doubted))
    assert [line.split(":")[0] for line in lines] == ["narrow", "wide", "bad"]
    assert "0.60" in lines[0]
    assert "too sure" in lines[0]
    assert "copy has 1 K" in lines[2]
    (line,) = findings.of_run(made_of(**good, lost=("letkf", np.nan, 0.3, 0)))
    assert line == "lost: non-finite, from cycle 0 on"
    (line,) = findings.of_run(made_of(**good, helped=("letkf", 0.5, 0.5, 2)))
    assert line == "helped: 12 members were replaced, since their forecast had failed"
    learning = made_of(**good)
    learning.tables["online.csv"] = [{"experiment": "x", "cycle": "0", "rolled_back": "1"}]
    assert findings.of_run(learning) == ["x: steps of learning were taken back in 1 of 1 cycles"]


def test_what_looks_like_a_formula_is_drawn_as_it_is(tmp_path):
    run = made_of(**{"$\\frac$": ("letkf", 0.5, 0.5)})
    settings = run.settings | {"title": "$\\no$", "cycles": 6, "interval_hours": 12}
    run = dataclasses.replace(run, settings=settings)
    assert table_plots.of_run(run).startswith(html_report.PNG)


def test_cells_sort_what_is_no_number_last():
    assert tabled.cell(1.23456) == ("1.235", 1.23456)
    assert tabled.cell(None) == tabled.cell(np.nan) == tabled.cell("x") == ("-", np.inf)
    assert tabled.text([1, "a"]).text == '[1, "a"]'


def test_folders_get_names_that_differ(tmp_path):
    places = [tmp_path / name for name in ("a/run", "b/run", "c/other")]
    assert html_report.labels(places) == ["a/run", "b/run", "c/other"]
    assert html_report.labels(places[1:]) == ["run", "other"]


NAMES = """title cycles interval_hours filters output fields figures model kind observations sigma train steps scores
status wall_seconds seconds_per_cycle free-run versions jaxda git commit changed command seeds settings started"""
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("$\\no$")
plain = st.booleans() | st.integers(-9, 2**70) | st.floats() | texts
keys = st.sampled_from(NAMES.split())
nested = lambda own: st.lists(own, max_size=2) | st.dictionaries(keys, own, max_size=5)
tables = st.dictionaries(keys, st.recursive(plain, nested, max_leaves=12), max_size=8)
rows = st.lists(st.lists(plain, min_size=3, max_size=3), max_size=4)


@given(settings=tables, scores=tables, record=st.lists(tables, max_size=2), cells=rows)
def test_whatever_a_folder_says_makes_a_page(tmp_path_factory, settings, scores, record, cells):
    folder = tmp_path_factory.mktemp("strange")
    with contextlib.suppress(ValueError):  # text that TOML does not hold
        (folder / "config.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    (folder / "scores.json").write_text(json.dumps({"scores": scores}))
    (folder / "record.json").write_text(json.dumps(record))
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["experiment", "cycle", "rmse_a"], *cells])
    with warnings.catch_warnings(action="ignore"):  # a font that lacks a letter, what is missing
        html_report.write(folder / "page.html", [folder])
        open_run(folder).close()
    Page((folder / "page.html").read_text(encoding="utf-8"))
