"""scripts/tune.py: it finds the better value, goes on where it was stopped, and refuses bad input in one line."""

import csv
import math
import tomllib
from pathlib import Path

import calling
import pytest

from jaxda import config as configuration
from jaxda import tuning

SCRIPT = Path(__file__).parents[1] / "scripts" / "tune.py"
# Inflated by 1.1 the LETKF follows the truth; by 0.5 it collapses and loses it.
SMALL = """
title = "small"
members = 8
cycles = 60
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
[filters."a (1)"]
kind = "letkf"
cutoff = 5.0
rtps = 0.0
[filters.free]
kind = "free-run"
"""
SPACE = ("--values", "inflation=0.5,1.1", "--values", "rotation=false,true")


tune = calling.script("tune")


pytestmark = pytest.mark.usefixtures("settings_of_jax")


@pytest.fixture
def search(tmp_path):
    """A function: words -> exit status, output and complaints of a search in tmp_path/out, on a small Lorenz-96."""
    (tmp_path / "a.toml").write_text(SMALL)

    def run(*words, name="a (1)"):
        return calling.call(tune, tmp_path / "a.toml", "--filter", name, "--out", tmp_path / "out", *words)

    return run


@pytest.fixture
def counted(monkeypatch):
    """The trials that were run, in place of running them: the score is the inflation, lost where it is over 2."""
    calls = []

    def run(config, world, name, values, on_chunk):
        calls.append(values)
        lost = values["inflation"] > 2
        score, status = (math.inf, "diverged") if lost else (values["inflation"], "ok")
        return tuning.Trial(values, score, status, 0.1)

    monkeypatch.setattr(tuning, "run", run)
    return calls


def rows(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_better_value_is_found(search, tmp_path):
    status, out, err = search(*SPACE)
    assert (status, err.count("tune.py")) == (0, 0)
    found = rows(tmp_path / "out")
    assert [(row["inflation"], row["rotation"]) for row in found] == [
        *[("0.5", "false"), ("0.5", "true")],
        *[("1.1", "false"), ("1.1", "true")],
    ]
    scores = [float(row["score"]) for row in found]
    assert max(scores[2:]) < 1.0 < min(scores[:2])  # the observations' error is between
    best = tomllib.loads((tmp_path / "out" / "best.toml").read_text())
    assert best["filters"]["a (1)"] | {"inflation": 1.1, "cutoff": 5.0, "kind": "letkf"} == best["filters"]["a (1)"]
    # pasted in place of the filter, the experiment is read
    pasted = tmp_path / "b.toml"
    pasted.write_text(SMALL[: SMALL.index("[filters")] + (tmp_path / "out" / "best.toml").read_text())
    assert configuration.read(pasted).filters["a (1)"].inflation == 1.1
    assert (tmp_path / "out" / "figure.png").stat().st_size > 1000
    assert out.index("1.1") < out.index("0.5")
    assert "inflation" in out


def test_a_search_goes_on_where_it_was_stopped(search, counted, tmp_path):
    words = ("--values", "inflation=0.9,1.0,1.1,3")
    assert search(*words)[0] == 0
    table = tmp_path / "out" / "trials.csv"
    whole = table.read_text()
    lines = whole.splitlines(keepends=True)
    assert (len(counted), len(lines)) == (4, 5)
    table.write_text("".join(lines[:3]) + lines[3][:2])  # killed while a row was written
    (tmp_path / "out" / "best.toml").unlink()
    counted.clear()
    assert search(*words)[0] == 0
    assert counted == [{"inflation": 1.1}, {"inflation": 3}]
    assert table.read_text() == whole
    assert tomllib.loads((tmp_path / "out" / "best.toml").read_text())["filters"]["a (1)"]["inflation"] == 0.9
    counted.clear()
    status, out, _ = search(*words)
    assert (status, counted) == (0, [])
    assert "diverged" in out


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--values", "inflation=1.0,1.2"), "search.values.inflation"),
        (("--values", "inflation=1.0,1.1", "--cycles", "61"), "experiment.cycles"),
        (("--values", "inflation=1.0,1.1", "--trials", "9"), "search.trials"),
    ],
)
def test_a_folder_of_another_search_is_refused(search, counted, tmp_path, changed, named):
    assert search("--values", "inflation=1.0,1.1")[0] == 0
    before = (tmp_path / "out" / "trials.csv").read_bytes()
    status, out, err = search(*changed)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"made with another {named}; give another --out" in err
    assert (tmp_path / "out" / "trials.csv").read_bytes() == before


def test_a_folder_with_something_else_is_refused(search, counted, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    status, _, err = search("--values", "inflation=1.0")
    assert (status, err.count("\n")) == (2, 1)
    assert "holds no search of settings; give another --out" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes"]


def test_without_a_trial_that_keeps_to_the_truth_the_status_is_3(search, counted, tmp_path):
    status, out, _ = search("--values", "inflation=3,4")
    assert status == 3
    assert "no trial kept to the truth" in out
    assert not (tmp_path / "out" / "best.toml").exists()
    assert (tmp_path / "out" / "figure.png").exists()


# Candidates


def test_values_are_read_as_toml_or_as_words():
    space = tuning.parse_values(["cutoff=inf,1500", "adaptive=none,regional", "rotation=true"])
    assert space == {"cutoff": [math.inf, 1500], "adaptive": ["none", "regional"], "rotation": [True]}


def test_the_grid_where_it_fits_and_a_random_part_of_it_where_not():
    space = {"a": [1, 2, 3], "b": ["x", "y"], "c": [0.1, 0.2]}
    grid = tuning.candidates(space, 12)
    assert len(grid) == 12
    assert grid[:2] == [{"a": 1, "b": "x", "c": 0.1}, {"a": 1, "b": "x", "c": 0.2}]
    part = tuning.candidates(space, 7)
    assert part == tuning.candidates(space, 7)
    assert len({tuple(values.values()) for values in part}) == 7
    assert all(values in grid for values in part)
    huge = tuning.candidates({name: list(range(100)) for name in "abcdefg"}, 5)
    assert len(huge) == 5
