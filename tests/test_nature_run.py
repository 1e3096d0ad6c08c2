"""scripts/nature_run.py: what it writes, that restarts change nothing, and how it refuses bad input."""

import contextlib
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import calling
import jax
import netCDF4
import numpy as np
import pytest
from rich.console import Console

from jaxda import nature
from jaxda.models import sqg
from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf, progress

SCRIPT = Path(__file__).parents[1] / "scripts" / "nature_run.py"
DAY = 86400.0


nature_run = calling.script("nature_run")


def run(*options):
    return nature_run.main([str(option) for option in options])


def read(path):
    found = netcdf.read_nature_run(path)
    return found, netcdf.read_states(found)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 2 days after a spin-up of 5, a state every 12 h."""
    path = tmp_path_factory.mktemp("made") / "run.nc"
    assert run("--N", 16, "--U", 25, "--spinup-days", 5, "--days", 2, "--seed", 4, "--out", path) == 0
    return path


def test_a_run(made):
    found, states = read(made)
    assert found.config == SQGConfig(N=16, U=25)  # with the time step of N = 16
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.times / DAY, [5, 5.5, 6, 6.5, 7])
    advance = jax.jit(sqg.make_advance(found.config, int(12 * 3600 / found.config.dt)))
    for before, after in itertools.pairwise(states):
        np.testing.assert_array_equal(advance(before), after)
    assert made.with_suffix(".png").stat().st_size > 10_000
    with netCDF4.Dataset(made) as nc:
        assert (nc.seed, nc.spinup_days) == (4, 5)
        assert "nature_run.py --N 16" in nc.history


def test_parts_of_an_interval_in_the_spinup(tmp_path):
    assert run("--N", 16, "--spinup-days", "1.5", "--days", 2, "--interval-hours", 24, "--out", tmp_path / "a.nc") == 0
    found, states = read(tmp_path / "a.nc")
    np.testing.assert_array_equal(found.times / DAY, [1.5, 2.5, 3.5])
    start = sqg.initial_state(jax.random.key(0), found.config)
    expected = jax.jit(sqg.make_advance(found.config, int(1.5 * DAY / found.config.dt)))(start)
    np.testing.assert_allclose(states[0], expected, atol=1e-3 * np.abs(states[0]).max())


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_restarts_change_no_bit(tmp_path, precision, monkeypatch):
    monkeypatch.setattr(nature_run.nature.spectrum_plots, "spectrum", lambda *_: None)
    whole, part, branch = (tmp_path / name for name in ("whole.nc", "part.nc", "branch.nc"))
    options = ("--N", 16, "--spinup-days", 2, "--precision", precision, "--interval-hours", 8)
    assert run(*options, "--days", 4, "--out", whole) == 0
    assert run(*options, "--days", 2, "--out", part) == 0
    assert run("--restart", part, "--days", 2, "--out", part) == 0
    assert run("--restart", whole, "--restart-day", 5, "--days", 1, "--out", branch) == 0
    (all_of_it, states), (lengthened, same), (later, rest) = read(whole), read(part), read(branch)
    assert lengthened.dtype == later.dtype == precision
    np.testing.assert_array_equal(lengthened.times, all_of_it.times)
    np.testing.assert_array_equal(same, states)
    np.testing.assert_array_equal(later.times, all_of_it.times[9:])
    np.testing.assert_array_equal(rest, states[9:])
    assert later.config == lengthened.config == all_of_it.config
    with netCDF4.Dataset(part) as nc:
        assert len(nc.history.splitlines()) == 2


def test_many_chunks_change_no_bit(tmp_path, made, monkeypatch):
    monkeypatch.setattr(nature_run.nature, "per_chunk", lambda config: 2)
    out = tmp_path / "run.nc"
    assert run("--N", 16, "--U", 25, "--spinup-days", 5, "--days", 2, "--seed", 4, "--out", out) == 0
    np.testing.assert_array_equal(read(out)[1], read(made)[1])
    np.testing.assert_array_equal(read(out)[0].times, read(made)[0].times)


def test_options_reach_the_model(tmp_path):
    wanted = SQGConfig(N=16, dt=2400, U=-10, symmetric=False, dealias=False, jacobian="exact", r=0.01, diff_order=6)
    flags = [text for name, value in asdict(wanted).items() if name != "kind" for text in (f"--{name}", str(value))]
    assert run(*flags, "--spinup-days", 0, "--days", 1, "--out", tmp_path / "a.nc", "--figure", tmp_path / "b.pdf") == 0
    found, _ = read(tmp_path / "a.nc")
    assert found.config == wanted
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    assert not (tmp_path / "a.png").exists()


def test_help_lists_every_option_with_its_unit(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in SQGConfig.__pydantic_fields__.items():
        assert name == "kind" or (f"--{name} " in text and field.description in text), name
    for option in ("days", "interval-hours", "spinup-days", "seed", "restart-day"):
        assert "[" in text.split(f"--{option} ")[-1].split(" --")[0], option


@pytest.fixture
def folder(tmp_path, made):
    """A good file beside damaged ones."""
    whole = made.read_bytes()
    (tmp_path / "run.nc").write_bytes(whole)
    (tmp_path / "cut.nc").write_bytes(whole[:-100])
    (tmp_path / "text.nc").write_text("t,pv\n0,1\n")
    (tmp_path / "nan.nc").write_bytes(whole)
    with netCDF4.Dataset(tmp_path / "nan.nc", "r+") as nc:
        nc["pv"][-1, 0, 0, 0] = np.nan
    return tmp_path


def test_files_of_sqgturb_can_be_gone_on_from(tmp_path):
    """Their times and parameters are in single precision."""
    path, config = tmp_path / "sqgturb.nc", SQGConfig(N=16)
    states = np.asarray(sqg.initial_state(jax.random.key(0), config), np.float32)[None]
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as nc:
        for field in fields(SQGConfig):
            if field.name not in ("kind", "N", "jacobian"):
                value = getattr(config, field.name)
                nc.setncattr(field.name, int(value) if isinstance(value, bool) else np.array(value, np.float32))
        for name, size in (("x", 16), ("y", 16), ("z", 2), ("t", None)):
            nc.createDimension(name, size)
        nc.createVariable("pv", np.float32, ("t", "z", "y", "x"))[:] = states
        nc.createVariable("t", np.float32, ("t",))[:] = [100 * DAY]
    assert run("--restart", path, "--out", tmp_path / "new.nc", "--days", 1) == 0
    found, new = read(tmp_path / "new.nc")
    assert found.config == config
    np.testing.assert_array_equal(found.times / DAY, [100, 100.5, 101])
    np.testing.assert_array_equal(new[:1], states)


def test_a_run_that_blows_up_keeps_what_was_good(tmp_path, made, capfd):
    config, states = read(made)[0].config, read(made)[1]
    netcdf.create_nature_run(tmp_path / "wild.nc", config)
    netcdf.append_states(tmp_path / "wild.nc", [0.0], 1e4 * states[:1])
    capfd.readouterr()
    assert run("--restart", tmp_path / "wild.nc", "--out", tmp_path / "new.nc", "--days", 1) == 1
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert "day 0.5" in err
    assert "--dt below 4800" in err
    np.testing.assert_array_equal(read(tmp_path / "new.nc")[1], 1e4 * states[:1])


def signalled(after):
    """A progress bar that a signal comes during, after so many intervals."""

    @contextlib.contextmanager
    def bar(*_):
        calls = iter(range(1, 1000))

        def report(amount, name=None):
            if next(calls) == after:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)

        yield report

    return bar


@pytest.mark.parametrize("after", [4, 13])
def test_a_stopped_run_goes_on_to_the_same_file(tmp_path, made, capfd, monkeypatch, after):
    """In its spin-up of 10 intervals, and later."""
    out = tmp_path / "run.nc"
    line = ("--N", 16, "--U", 25, "--spinup-days", 5, "--days", 2, "--seed", 4, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(progress, "bar", signalled(after))
        assert run(*line) == 75
    assert capfd.readouterr().err.splitlines()[-1] == (
        "nature_run: stopped by SIGTERM, all that is done is kept; --resume goes on"
    )
    assert out.exists() == (after == 13)
    if after == 13:
        np.testing.assert_array_equal(read(out)[1], read(made)[1][:3])
    assert (tmp_path / ".run.nc.spinup").exists() == (after == 4)
    done = []
    trajectory = nature.trajectory
    monkeypatch.setattr(nature, "trajectory", lambda plan: done.append(plan.done) or trajectory(plan))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # as --resume
    assert run(*line) == 0
    assert done == [{4: 27, 13: None}[after]]
    np.testing.assert_array_equal(read(out)[1], read(made)[1])
    np.testing.assert_array_equal(read(out)[0].times, read(made)[0].times)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.nc", "run.png"]


def test_a_state_that_a_kill_cut_off_is_made_again(tmp_path, made, capsys):
    out = tmp_path / "run.nc"
    line = ("--resume", "--N", 16, "--U", 25, "--spinup-days", 5, "--days", 2, "--seed", 4, "--out", out)
    for number in (-1, -2):
        shutil.copyfile(made, out)
        with netCDF4.Dataset(out, "r+") as nc:
            nc["checksum"][number:] = np.ma.masked
            nc["pv"][number:] = 0.0
        assert len(read(out)[0].times) == len(read(made)[0].times) + number
        assert run(*line) == 0
        np.testing.assert_array_equal(read(out)[1], read(made)[1])
        np.testing.assert_array_equal(read(out)[0].times, read(made)[0].times)
    data = bytearray(made.read_bytes())
    data[-100] ^= 1  # of the last state, which it would go on from
    out.write_bytes(data)
    capsys.readouterr()
    assert run(*line[:-4], "--days", 3, *line[-4:]) == 2
    assert "run.nc: pv[4], day 7, is not what was written; use only states before it" in capsys.readouterr().err


def test_the_same_command_goes_on_until_all_days_are_there(tmp_path, made, capsys):
    out = tmp_path / "run.nc"
    line = ("--resume", "--N", 16, "--U", 25, "--spinup-days", 5, "--seed", 4, "--out", out)
    assert run(*line, "--days", 1) == 0
    assert run(*line, "--days", 2) == 0
    np.testing.assert_array_equal(read(out)[1], read(made)[1])
    np.testing.assert_array_equal(read(out)[0].times, read(made)[0].times)
    before = out.read_bytes()
    for days in (2, 1):
        capsys.readouterr()
        assert run(*line, "--days", days) == 0
        assert capsys.readouterr().out == "nature_run: all days are there; nothing to do\n"
    assert out.read_bytes() == before
    for wrong, said in (("--seed", "--seed 9"), ("--spinup-days", "--spinup-days 9"), ("--U", "--U 9")):
        assert run(*line, "--days", 3, wrong, 9) == 2
        assert f"nature_run: {said}" in capsys.readouterr().err
    assert run(*line, "--days", 3, "--restart", made) == 2
    assert out.read_bytes() == before


def test_as_a_program(tmp_path, made):
    out = tmp_path / "run.nc"
    line = ["--N", "16", "--U", "25", "--spinup-days", "5", "--days", "2", "--seed", "4", "--out", out]
    done = subprocess.run([sys.executable, SCRIPT, *line], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 5 states of N = 16, float32, to day 7; ")
    assert done.stderr.startswith("nature run: 7 days in ")  # no terminal: one line, when done
    assert done.stdout.count("\n") == done.stderr.count("\n") == 1
    np.testing.assert_array_equal(read(out)[1], read(made)[1])
    again = subprocess.run([sys.executable, SCRIPT, *line], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert again.returncode == 2
    assert again.stderr == (
        f"nature_run: --out {out} exists already; give another name, remove it, or lengthen it with --restart\n"
    )
    assert set(tmp_path.iterdir()) == {out, out.with_suffix(".png")}


def test_a_file_that_somebody_looks_at_can_grow(tmp_path, made):
    out = tmp_path / "run.nc"
    out.write_bytes(made.read_bytes())
    line = [sys.executable, SCRIPT, "--restart", out, "--out", out, "--days", "1"]
    with netCDF4.Dataset(out):  # in another process than the run
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert read(out)[0].times[-1] == 8 * DAY


def test_progress_on_a_terminal():
    screen = io.StringIO()
    with progress.bar("run", 10, "days", Console(file=screen, force_terminal=True, width=120)) as report:
        for name in ("spin-up", "saving"):
            report(5, name)
    assert "saving" in screen.getvalue()
    assert "10/10 days" in screen.getvalue()
