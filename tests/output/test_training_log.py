"""The table and the events of a training, read back."""

import csv
import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxda.output.netcdf import FileError
from jaxda.output.training_log import TrainingLog


def events(folder):
    """All events of a folder, in order: records of length (8 bytes), its check (4), bytes, their check (4)."""
    found = []
    for path in sorted((folder / "events").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            found.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def points(folder):
    """(step, name, value) of all curves."""
    return [(event.step, v.tag, v.simple_value) for event in events(folder) for v in event.summary.value]


def rows(folder):
    return list(csv.DictReader((folder / "log.csv").open()))


def test_rows_and_curves_are_read_back(tmp_path):
    with TrainingLog(tmp_path / "run", 0) as log:
        log.scalars(10, {"train/loss": 0.5})
        log.row({"step": 20, "loss": 0.25, "rmse_1": 3.0})
    assert points(tmp_path / "run") == [
        (10, "train/loss", 0.5), (20, "validation/loss", 0.25), (20, "validation/rmse_1", 3.0)
    ]  # fmt: skip
    assert rows(tmp_path / "run") == [{"step": "20", "loss": "0.25", "rmse_1": "3.0"}]


def test_what_goes_on_forgets_what_came_after_its_checkpoint(tmp_path):
    with TrainingLog(tmp_path, 0) as log:
        for step in (20, 40, 60):
            log.row({"step": step, "loss": 1.0})
    with TrainingLog(tmp_path, 40) as log:
        log.row({"step": 60, "loss": 2.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [("20", "1.0"), ("40", "1.0"), ("60", "2.0")]
    restarts = [event.step for event in events(tmp_path) if event.session_log.status == 1]
    assert restarts == [41]


def test_an_older_table_keeps_its_rows(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,rmse_1\n20,1.0,5.0\n", encoding="utf-8")
    with TrainingLog(tmp_path, 20) as log:
        log.row({"step": 40, "loss": 0.5, "mfu": 0.4, "rmse_1": 4.0})
    assert rows(tmp_path) == [
        {"step": "20", "loss": "1.0", "mfu": "", "rmse_1": "5.0"},
        {"step": "40", "loss": "0.5", "mfu": "0.4", "rmse_1": "4.0"},
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "has no column step"),
        ("step\nten\n", "cannot be read"),
        ("step\n1,2\n", "longer than its header"),
    ],
)
def test_a_table_that_is_none_of_ours_is_left_alone(tmp_path, content, said):
    (tmp_path / "log.csv").write_text(content, encoding="utf-8")
    with pytest.raises(FileError, match=said):
        TrainingLog(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    assert (tmp_path / "log.csv").read_text() == content


def test_without_tensorboardx_the_table_is_written_and_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with TrainingLog(tmp_path, 0) as log:
        log.scalars(1, {"train/loss": 1.0})
        log.row({"step": 1, "loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("tensorboardX is not installed")
