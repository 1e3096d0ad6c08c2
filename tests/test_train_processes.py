"""scripts/train_vit.py as two processes, with gloo between them: what one process finds, and goes on with."""

import csv
from pathlib import Path

import numpy as np
import processes
import pytest

ROOT = Path(__file__).parents[1]
TRAIN, TINY = ROOT / "scripts" / "train_vit.py", ROOT / "configs" / "vit_tiny.toml"
SHORT = ["--train.warmup", "2", "--train.validate_every", "10", "--train.steps", "20"]


def scores(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [[float(row[name]) for name in ("loss", "rmse_1", "rmse_3")] for row in csv.DictReader(file)]


@pytest.mark.long
def test_two_processes_find_what_one_does(tiny_training, tmp_path):
    one, series, _ = tiny_training
    out = tmp_path / "two"
    words = [TRAIN, TINY, "--series.file", series, "--out", out, *SHORT]
    ended = processes.run(2, "torchrun", *words, "--parallel.strategy", "zero3")
    assert [end.status for end in ended] == [0, 0], [end.err for end in ended]
    first, second = ended
    assert (second.out, second.err) == ("", "")
    assert "best at step" in first.out
    assert "2 processes (torchrun), 2 x cpu, float32, mesh data 1 x fsdp 2" in first.err
    np.testing.assert_allclose(scores(out), scores(one), rtol=1e-3)
    assert len(scores(one)) == 2
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.parametrize("bad", [("--parallel.fsdp", "2"), ("--data.batch", "3")])
def test_bad_input_is_said_once_and_all_end(bad, tmp_path):
    ended = processes.run(2, "torchrun", TRAIN, TINY, "--out", tmp_path / "run", *bad)
    assert [end.status for end in ended] == [2, 2]
    assert "".join(end.err for end in ended).count("train_vit.py:") == 1
    assert not (tmp_path / "run").exists()
