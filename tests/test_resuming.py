"""Runs that are interrupted, learning as they go, and go on: what they leave is that of a run that was not."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import calling
import jax.numpy as jnp
import netCDF4
import numpy as np
import processes
import pytest

from jaxda import config as configuration
from jaxda import experiment, resuming
from jaxda.experiment import Chunk
from jaxda.output.report import COUNTS
from jaxda.parallel import stopping
from jaxda.training.online import Learned
from jaxda.twin import Coupled, Scores

pytestmark = pytest.mark.usefixtures("settings_of_jax")
SCRIPT = Path(__file__).parents[1] / "scripts" / "osse.py"
EXPERIMENT = """
members = 4
cycles = 9
interval_hours = 4.0
[model]
kind = "sqg"
N = 16
[nature]
file = "{file}"
spinup_days = 0.0
climate_days = 20.0
[surrogate]
folder = "{folder}"
[online]
steps = 1
batch = 2
first = 2
window = 4
hold_every = 2
guard = 1
learning_rate = 1e-3
replay_states = 4
[online.parallel]
strategy = "zero1"
[output]
figures = false
[filters.learning]
kind = "letkf"
cutoff = 3000.0
forecast = "surrogate"
online = true
[filters.free-run]
kind = "free-run"
"""
#: cycles of a chunk, after each of which there is a checkpoint
CHUNK = 3


@pytest.fixture(scope="module")
def path(untrained, tiny_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("resuming") / "small.toml"
    path.write_text(EXPERIMENT.format(file=tiny_file, folder=untrained))
    return path


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(experiment, "chunk_of", lambda shape: CHUNK)


def run(path, out, *words):
    return calling.call(calling.script("osse"), path, "--out", out, *words)


@pytest.fixture(scope="module")
def whole(path, tmp_path_factory):
    """The folder of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "chunk_of", lambda shape: CHUNK)
        status, _, error = run(path, out)
    assert status == 0, error
    return out


def results(folder):
    """Everything that a run leaves, times of computing aside."""
    arrays = {}
    for file in ("analysis.nc", "diagnostics.nc"):
        with netCDF4.Dataset(folder / file) as nc:
            own = {
                name: variable[:] for name, variable in nc.variables.items() if np.dtype(variable.dtype).kind in "fi"
            }
        arrays |= {(file, name): np.ma.filled(a, np.nan if a.dtype.kind == "f" else 0) for name, a in own.items()}
    scores = json.loads((folder / "scores.json").read_text())
    for row in scores["scores"].values():
        assert row.pop("wall_seconds") > 0
        assert row.pop("seconds_per_cycle") > 0
    texts = {name: (folder / name).read_text() for name in ("scores.csv", "online.csv", "config.toml")}
    return arrays, scores, texts


def assert_same(found, expected):
    (arrays, scores, texts), (of_whole, *others) = results(found), results(expected)
    assert (scores, texts) == tuple(others)
    assert set(arrays) == set(of_whole)
    for name, values in of_whole.items():
        np.testing.assert_array_equal(arrays[name], values, err_msg=name)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_learns_leaves_a_record_of_it(whole):
    records = rows(whole / "online.csv")
    assert list(records[0]) == ["experiment", "cycle", "time_h", *Learned._fields]
    assert [(row["experiment"], int(row["cycle"])) for row in records] == [("learning", k) for k in range(9)]
    drift = np.array([float(row["drift"]) for row in records])
    kept = np.array([float(row["rolled_back"]) for row in records]) == 0
    assert (drift[:2] == 0).all()
    assert drift[-1] > 0
    assert kept[2:].any()
    moved = np.diff(drift) != 0
    assert not moved[~kept[1:]].any()
    found = rows(whole / "scores.csv")
    assert len(found) == 18
    assert {row["replaced"] for row in found} == {"0"}


class Killed(BaseException):
    """What nothing in the program catches."""


def killed_at(call, of):
    """`of`, raising before the call of that number is done."""
    count = iter(range(1, 100))

    def stop(*given):
        if next(count) == call:
            raise Killed
        return of(*given)

    return stop


def test_a_run_interrupted_twice_goes_on_to_the_same_end(path, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:  # written to analysis.nc, but not kept in a checkpoint: the third chunk
        patch.setattr(resuming.Progress, "save", killed_at(3, resuming.Progress.save))
        with pytest.raises(Killed):
            run(path, out)
    assert not (out / "scores.csv").exists()
    with monkeypatch.context() as patch:  # the free run's second, after what was left of the first filter
        patch.setattr(resuming.Progress, "save", killed_at(3, resuming.Progress.save))
        with pytest.raises(Killed):
            run(path, out, "--resume")
    assert {row["experiment"] for row in rows(out / "scores.csv")} == {"learning"}
    done = []
    save = resuming.Progress.save
    monkeypatch.setattr(resuming.Progress, "save", lambda self, chunk: done.append(chunk.first) or save(self, chunk))
    status, _, error = run(path, out, "--resume")
    assert status == 0, error
    assert done == [3, 6]
    assert_same(out, whole)
    # once more: nothing is left to do
    status, _, error = run(path, out, "--resume")
    assert status == 0, error
    assert done == [3, 6]
    assert_same(out, whole)


def test_a_run_with_other_settings_does_not_go_on(path, whole):
    before = sorted(whole.rglob("*")), (whole / "config.toml").stat().st_mtime_ns
    for words, said in (
        (["--cycles", "12"], "another cycles;"),
        (["--online.learning_rate", "0.01"], "another online.learning_rate;"),
        (["--filters.second.kind", "free-run"], "another filters.second;"),
    ):
        status, out, error = run(path, whole, "--resume", *words)
        assert (status, out) == (2, "")
        assert error.startswith(f"osse.py: {whole}: its run was made with {said}"), error
        assert "give that again, or another --out" in error
        assert len(error.splitlines()) == 1
    assert (sorted(whole.rglob("*")), (whole / "config.toml").stat().st_mtime_ns) == before


def test_a_folder_in_use_is_refused_without_resume(path, whole):
    status, _, error = run(path, whole)
    assert status == 2
    assert error == f"osse.py: {whole}: is not an empty folder; give another --out, or move it away\n"


# Stopped, and damaged


def stopped_after(call, number=signal.SIGUSR1):
    """`Progress.save`, the call of that number with a signal in it."""
    count, save = iter(range(1, 100)), resuming.Progress.save

    def kept(self, chunk):
        save(self, chunk)
        if next(count) == call:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    return kept


def copy_of_a_stopped_run(path, tmp_path, monkeypatch, call=2, *words):
    """A run stopped after some chunks of three cycles."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(resuming.Progress, "save", stopped_after(call))
        status, _, error = run(path, out, *words)
    assert status == stopping.REQUEUE, error
    assert error.splitlines()[-1] == "osse.py: stopped by SIGUSR1, all that is done is kept; --resume goes on"
    return out


def test_a_run_stopped_by_a_signal_goes_on_when_slurm_starts_it_again(path, whole, tmp_path, monkeypatch):
    out = copy_of_a_stopped_run(path, tmp_path, monkeypatch)
    assert not (out / "analysis.nc").exists()
    assert not list(tmp_path.rglob("*.part"))
    status, _, error = run(path, out)
    assert (status, error) == (2, f"osse.py: {out}: is not an empty folder; give another --out, or move it away\n")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    status, _, error = run(path, out)
    assert status == 0, error
    assert_same(out, whole)
    assert not (out / "fields").exists()
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 16
    path.write_bytes(data)


@pytest.mark.long
def test_damaged_checkpoints_and_fields_cost_time_alone(path, whole, tmp_path, monkeypatch):
    out = copy_of_a_stopped_run(path, tmp_path, monkeypatch)
    parts = sorted((out / "fields").glob("*.npz"))
    assert [part.name for part in parts] == ["learning-000000.npz", "learning-000003.npz"]
    flip(parts[1])
    (out / "config.toml").unlink()  # the checkpoints have the settings
    firsts, save = [], resuming.Progress.save
    monkeypatch.setattr(resuming.Progress, "save", lambda self, chunk: firsts.append(chunk.first) or save(self, chunk))
    status, _, error = run(path, out, "--resume", "--online.learning_rate", "0.5")
    assert status == 2
    assert not (out / "config.toml").exists()
    assert "learning: was made with other settings, online.learning_rate = 0.001, now 0.5" in error
    status, _, error = run(path, out, "--resume")
    assert status == 0, error
    assert firsts == [3, 6, 0, 3, 6]
    assert_same(out, whole)
    # a finished run has no use for its checkpoints; what is damaged now is said
    flip(out / "analysis.nc")
    status, _, error = run(path, out, "--resume")
    said = "analysis.nc is not what was written, its checksum differs; remove analysis.nc and SHA256SUMS, and --resume"
    assert (status, error) == (2, f"osse.py: {out}: {said} makes them again\n")
    for name in ("analysis.nc", "SHA256SUMS"):
        (out / name).unlink()
    flip(out / "scores.csv")
    status, _, error = run(path, out, "--resume")
    assert status == 0, error
    assert firsts[5:] == [0, 3, 6, 0, 3, 6]
    assert_same(out, whole)


@pytest.mark.long
def test_other_devices_go_on_to_a_millionth(path, tmp_path):
    """Two devices, then one; in float64, since turbulence makes much of little."""
    words = ("--precision", "float64")
    out, whole = tmp_path / "cut", tmp_path / "whole"
    first = start(path, out, *words)
    wait_for_a_checkpoint(first, out)
    first.terminate()
    _, error = first.communicate(timeout=60)
    assert first.returncode == stopping.REQUEUE, error
    for folder, devices, more in ((out, "1", ["--resume"]), (whole, "2", [])):
        process = start(path, folder, *words, *more, JAX_NUM_CPU_DEVICES=devices)
        _, error = process.communicate(timeout=600)
        assert process.returncode in (0, 3), error  # the surrogate is none
        assert ("device cpu x 2, now cpu x 1: goes on, but not bit for bit" in error) == (devices == "1")
    found, expected = (results(folder)[0] for folder in (out, whole))
    for name, values in expected.items():
        size = np.sqrt(np.nanmean(values.astype(float) ** 2))
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6 * size, err_msg=name)


# What is kept


def series(first, count, bad_from=99):
    """A chunk of a filter whose scores are not finite from a cycle on, and which counts until then."""
    number = np.arange(first, first + count)
    lost = number >= bad_from
    values = {
        name: np.where(lost, np.nan, 0.1 * number + k).astype(np.float32) for k, name in enumerate(Scores._fields)
    }
    counts = {name: number + k for k, name in enumerate(COUNTS)} | {"lost": 3 * lost}
    coupled = Coupled(jnp.full((2, 16), float(first)), None)
    return Chunk(first, Scores(**values | counts), None, None, coupled, 0.5)


def test_what_went_wrong_is_nothing_to_go_on_from(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text('[model]\nkind = "lorenz96"\ndim = 16\n[filters.a]\nkind = "free-run"\n')
    config = configuration.read(path, {"interval_hours": 6.0})
    chunks = [series(0, 3), series(3, 3), series(6, 2, bad_from=7)]
    with resuming.Progress(config, tmp_path, "a") as progress:
        for chunk in chunks:
            progress.save(chunk)
    with resuming.Progress(config, tmp_path, "a") as progress:
        found = progress.load(chunks[0].coupled)
    expected, _ = experiment.joined(chunks[:2])
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found.scores, name), values, err_msg=name)
    assert (found.first, found.done, found.seconds, found.learned) == (0, 6, 0.5, None)
    np.testing.assert_array_equal(found.coupled.ensemble, chunks[1].coupled.ensemble)


# Killed for good

#: the script with short chunks
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path({tests!r})))
import calling
from jaxda import experiment
experiment.chunk_of = lambda shape: 2
sys.exit(calling.script("osse").main(sys.argv[1:]))
"""


def start(path, out, *words, **more):
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    line = [sys.executable, "-c", program, str(path), "--out", str(out), "--cycles", "24", *words]
    env = processes.environment() | {"JAXDA_LAUNCH": "single", "JAX_NUM_CPU_DEVICES": "2"} | more
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_a_checkpoint(process, out):
    kept = out / resuming.FOLDER / "learning"
    until = time.monotonic() + 300
    while not any(entry.name.isdecimal() for entry in kept.glob("*")) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(path, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first = start(path, cut)
    wait_for_a_checkpoint(first, cut)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert not (cut / "scores.json").exists()
    ends = [process.communicate(timeout=600)[1] for process in (start(path, cut, "--resume"), start(path, whole))]
    assert (cut / "scores.json").exists(), ends
    assert_same(cut, whole)
