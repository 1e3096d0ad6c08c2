"""scripts/score_table.py: means and standard errors over seeds, and what it refuses."""

import json
from functools import partial
from pathlib import Path

import calling
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "score_table.py"


score_table = calling.script("score_table")


run = partial(calling.call, score_table)


def row(rmse, last, spread, crps, seconds=0.5, status="ok"):
    part = lambda error: {"rmse_b": 9.0, "rmse_a": error, "spread_b": 9.0, "spread_a": spread, "crps_a": crps}
    return {"status": status, "all": part(rmse), "last_third": part(last), "seconds_per_cycle": seconds}


def content(scores, seed=0, kind="sqg", **settings):
    return {"scores": scores, "settings": {"title": "", "seed": seed, "model": {"kind": kind}, **settings}}


def write(folder, *given, **settings):
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(content(*given, **settings)))
    return folder


def cells(out, name):
    line = next(line for line in out.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_and_standard_errors_over_seeds(tmp_path):
    folders = [
        write(tmp_path / f"s{seed}", {"LETKF": row(*numbers), "free-run": row(7.0, 7.5, 7.5, 4.0)}, seed=seed)
        for seed, numbers in enumerate([(1.0, 0.5, 0.4, 0.3), (2.0, 0.7, 0.7, 0.5), (3.0, 0.6, 0.3, 0.4)])
    ]
    status, out, err = run(*folders)
    assert (status, err) == (0, "")
    ratio = ["0.767 ± 0.145"]  # 0.8, 1.0, 0.5
    expected = ["2.000 ± 0.577", "0.600 ± 0.058", *ratio, "0.400 ± 0.058", "0.500 ± 0.000", "3", "0"]
    assert cells(out, "LETKF") == ["LETKF", *expected]
    assert cells(out, "free-run")[1:5] == ["7.000 ± 0.000", "7.500 ± 0.000", "1.000 ± 0.000", "4.000 ± 0.000"]
    assert out.startswith("**s0**")
    assert "RMSE, last third [K]" in out
    widths = {line.count("|") for line in out.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_one_seed_has_no_standard_error(tmp_path):
    _, out, _ = run(write(tmp_path / "a", {"LETKF": row(1.0, 0.5, 0.25, 0.3)}, kind="lorenz96", title="my run"))
    assert cells(out, "LETKF") == ["LETKF", "1.000", "0.500", "0.500", "0.300", "0.500", "1", "0"]
    assert out.startswith("**my run**")
    assert "RMSE [1]" in out


def test_seeds_that_failed_are_counted_and_left_out(tmp_path):
    lost = {"status": "non-finite", "all": {"rmse_a": None}, "last_third": {}, "seconds_per_cycle": 0.1}
    good, wild = row(1.0, 0.5, 0.5, 0.3), row(90.0, 99.0, 1.0, 80.0, status="diverged")
    folders = [
        write(tmp_path / f"s{seed}", {"EnSF": scores, "never": lost}, seed=seed)
        for seed, scores in enumerate([good, wild, good, lost])
    ]
    out = run(*folders)[1]
    assert cells(out, "EnSF") == [
        "EnSF",
        *(f"{x} ± 0.000" for x in ("1.000", "0.500", "1.000", "0.300", "0.500")),
        "4",
        "2",
    ]
    assert cells(out, "never") == ["never", *"-----", "4", "4"]


def test_other_settings_are_another_table_but_what_is_written_is_not(tmp_path):
    one = {"LETKF": row(1.0, 0.5, 0.5, 0.3)}
    folders = [
        write(tmp_path / "a", one, seed=0, members=20, output={"fields": True}),
        write(tmp_path / "b", one, seed=0, members=40, title="many"),
        write(tmp_path / "c", one, seed=1, members=20, output={"fields": False}),
    ]
    first, second = run(*folders)[1].split("\n\n**")
    assert cells(first, "LETKF")[-2] == "2"
    assert cells(second, "LETKF")[-2] == "1"
    assert second.startswith("many**")


def test_a_filter_that_some_runs_lack_and_an_error_of_zero(tmp_path):
    still = row(0.0, 0.0, 0.0, 0.0)
    out = run(write(tmp_path / "a", {"free": still, "LETKF": row(1.0, 0.5, 0.5, 0.3)}))[1]
    assert cells(out, "free")[3] == "nan"


WITHOUT = row(1.0, 0.5, 0.5, 0.3)
del WITHOUT["last_third"]["crps_a"]
BAD = [
    (None, ["a/scores.json: no such file", "finished run"]),
    ("{", ["a/scores.json: not readable as JSON", "finished run"]),
    ("[1]", ["a/scores.json: scores = null", "finished run"]),
    (content({}), ["a/scores.json: scores = {}", "finished run"]),
    (content({"EnSF": 3}), ["a/scores.json: scores.EnSF = 3 has no status"]),
    (content({"EnSF": WITHOUT}), ["scores.EnSF.last_third.crps_a = null is not a number", "run it again"]),
    (content({"EnSF": row(1.0, "x", 1.0, 1.0)}), ['scores.EnSF.last_third.rmse_a = "x" is not a number']),
    (content({"EnSF": row(1, 1, 1, 1)}, seed="old"), ['a/scores.json: settings.seed = "old"']),
    ({"scores": {"EnSF": row(1, 1, 1, 1)}}, ["a/scores.json: settings = null"]),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said[0] for _, said in BAD])
def test_bad_input_is_one_line(tmp_path, text, said):
    (tmp_path / "a").mkdir()
    if text is not None:
        (tmp_path / "a" / "scores.json").write_text(text if isinstance(text, str) else json.dumps(text))
    status, out, err = run(tmp_path / "a")
    assert (status, out) == (2, "")
    assert err.startswith("score_table.py: ")
    assert len(err.splitlines()) == 1
    assert all(words in err for words in said), err


def test_a_seed_that_comes_twice_is_refused(tmp_path):
    folders = [write(tmp_path / name, {"EnSF": row(1.0, 0.5, 0.5, 0.3)}, seed=4) for name in "ab"]
    status, out, err = run(*folders)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "b/scores.json: seed = 4 is that of" in err
    assert "leave one out" in err
