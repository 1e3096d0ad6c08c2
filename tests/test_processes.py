"""scripts/osse.py as several processes, started here as by srun, torchrun and mpirun, with gloo between them."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import calling
import numpy as np
import processes
import pytest
import xarray

ROOT = Path(__file__).parents[1]
OSSE = ROOT / "scripts" / "osse.py"
LORENZ_WORLD = """
members = 8
cycles = 2
interval_hours = 6.0
[model]
kind = "lorenz96"
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
noise = 1.0
[observations]
operator = "arctan"
sigma = 0.1
fraction = 0.8
[output]
members = true
figures = false
[filters.LETKF]
kind = "letkf"
cutoff = 14.0
additive = 0.1
"""
LORENZ = (
    LORENZ_WORLD
    + """
[filters.local]
kind = "local-score"
[filters.EnSF]
kind = "ensf"
integrator = "exponential"
steps = 20
tolerance = 0.0
[filters.observations]
kind = "observations-only"
members = 3
"""
)
SQG = """
members = 8
cycles = 2
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 5.0
climate_days = 5.0
[output]
figures = false
[filters.LETKF]
kind = "letkf"
cutoff = 3000.0
[filters.observations]
kind = "observations-only"
"""
pytestmark = pytest.mark.usefixtures("settings_of_jax")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A function: text of an experiment -> its file and the folder of a run by this process, on two devices."""
    made = {}

    def run(text):
        if text not in made:
            folder = tmp_path_factory.mktemp("alone")
            (folder / "a.toml").write_text(text)
            status, _, err = calling.call(calling.script("osse"), folder / "a.toml", "--out", folder / "run")
            assert status == 0, err
            made[text] = folder / "a.toml", folder / "run"
        return made[text]

    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Settings with which the processes of all tests keep what each compiled for itself."""
    sizes = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))} | sizes


def numbers(folder):
    """What scores.csv says: (experiment, cycle, time) -> scores."""
    with (folder / "scores.csv").open(newline="") as file:
        return {tuple(row[:3]): np.array(row[3:], float) for row in list(csv.reader(file))[1:]}


def contents(folder):
    """What a run leaves, without its checkpoints, which have files of each process."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(name for name in names if not name.startswith("checkpoints"))


@pytest.mark.long
def test_two_processes_give_one_process_bit_for_bit(alone, tmp_path, cache):
    path, before = alone(LORENZ)
    first, second = processes.run(2, "srun", OSSE, path, "--out", tmp_path / "run", **cache)
    assert (first.status, second.status) == (0, 0), (first.err, second.err)
    assert (tmp_path / "run" / "scores.csv").read_text() == (before / "scores.csv").read_text()
    with (
        xarray.open_dataset(before / "analysis.nc") as one,
        xarray.open_dataset(tmp_path / "run" / "analysis.nc") as two,
    ):
        xarray.testing.assert_equal(one, two)  # every member, and NaN where a filter has fewer
    assert contents(tmp_path / "run") == contents(before)
    assert (second.out, second.err) == ("", "")
    assert "local" in first.out
    assert "2 processes (srun), 2 x cpu, float32" in first.err


@pytest.mark.long
def test_four_processes_give_one_process_to_rounding(alone, tmp_path, cache):
    path, before = alone(LORENZ_WORLD)
    ended = processes.run(4, "torchrun", OSSE, path, "--out", tmp_path / "run", **cache)
    assert [end.status for end in ended] == [0] * 4, [end.err for end in ended]
    found, expected = numbers(tmp_path / "run"), numbers(before)
    assert list(found) == list(expected)
    for row, values in expected.items():
        np.testing.assert_allclose(found[row], values, rtol=1e-5, err_msg=str(row))


@pytest.mark.mpi
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun")
def test_mpirun_gives_one_process(alone, tmp_path):
    path, before = alone(SQG)
    line = ["mpirun", "-n", "2", sys.executable, OSSE, path, "--out", tmp_path / "run"]
    done = subprocess.run(line, env=processes.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 processes (mpirun)" in done.stderr
    found, expected = numbers(tmp_path / "run"), numbers(before)
    assert list(found) == list(expected)
    for row, values in expected.items():
        np.testing.assert_allclose(found[row], values, rtol=1e-5, err_msg=str(row))


ARRAYS = """
import dataclasses
import jax.numpy as jnp, numpy as np
from jaxda.parallel import launch
Settings = dataclasses.make_dataclass("Settings", [])
rank = launch.start("float32", Settings()).rank
a, b = launch.from_first((jnp.full(3, 0.1 + rank), np.array([np.nan, rank, -1e-30 * (1 + rank)])))
print(np.asarray(a).tolist(), np.asarray(b, np.float32).tolist())
"""


def test_arrays_are_those_of_the_first():
    ended = processes.run(3, "torchrun", "-c", ARRAYS)
    assert [end.status for end in ended] == [0] * 3, [end.err for end in ended]
    values = [np.float32(0.1).item()] * 3, [np.nan, 0.0, np.float32(-1e-30).item()]
    assert [end.out for end in ended] == [f"{values[0]} {values[1]}\n"] * 3


# Bad input: one line of the first process, status 2 of all, nothing written

BAD = {
    "other settings": (
        lambda rank: ["--members", 8 + 2 * rank],
        "osse.py: rank 1: members = 10 here, 8 on rank 0; start all alike, or set JAXDA_LAUNCH=single for ",
    ),
    "one without a file": (lambda rank: ["--seed", "x"] if rank else [], "osse.py: rank 1: a.toml: seed = x: "),
    "all": (lambda rank: ["--cycles", 0], "osse.py: a.toml: cycles = 0: "),
    "members": (
        lambda rank: ["--members", 7],
        "osse.py: filters.LETKF: members = 7 do not divide over 2 processes; use a multiple of 2, or fewer processes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_of_the_first_and_ends_all(tmp_path, name):
    each, said = BAD[name]
    (tmp_path / "a.toml").write_text(LORENZ)
    ended = processes.run(2, "torchrun", OSSE, "a.toml", "--out", "run", each=each, cwd=tmp_path)
    assert [end.status for end in ended] == [2, 2], [end.err for end in ended]
    assert [end.out for end in ended] == ["", ""]
    assert ended[0].err.startswith(said), ended[0].err
    assert (ended[0].err.count("\n"), ended[1].err) == (1, "")
    assert contents(tmp_path) == ["a.toml"]


def test_other_devices_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text(LORENZ)
    line = (
        "import os, sys; os.environ['JAX_NUM_CPU_DEVICES'] = str(1 + int(os.environ['RANK'])); sys.argv = sys.argv[1:]"
    )
    line += "; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    ended = processes.run(2, "torchrun", "-c", line, OSSE, "a.toml", cwd=tmp_path)
    assert [end.status for end in ended] == [2, 2], [end.err for end in ended]
    assert ended[0].err.startswith("osse.py: rank 1: JAX_NUM_CPU_DEVICES = 2 here, 1 on rank 0; start all alike")


def test_a_process_that_is_missing_is_said(tmp_path):
    (tmp_path / "a.toml").write_text(LORENZ)
    more = processes.variables("torchrun", 1, 3, 29999) | {"WORLD_SIZE": "3"}
    env = processes.environment() | more | {"JAXDA_TIMEOUT": "2"}
    line = [sys.executable, OSSE, "a.toml"]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "rank 1 of 3 found no others at 127.0.0.1:29999: not in JAXDA_TIMEOUT = 2 s; check that all" in done.stderr
    assert done.stderr.count("\n") == 1


# A process that fails takes the others with it

DRIVER = """
import dataclasses, os, sys, time
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxda.parallel import launch
from jaxda.parallel.mesh import member_mesh

@dataclasses.dataclass
class Settings:
    n: int = 1

found = launch.start("float32", Settings())
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(member_mesh(2), PartitionSpec()))
spread = NamedSharding(member_mesh(2), PartitionSpec("member"))
x = jax.make_array_from_callback((2,), spread, lambda where: np.ones(2, np.float32)[where])
assert float(total(x)) == 2
how, bad, waits = sys.argv[1:]
if found.rank == int(bad):
    print("failing at", time.monotonic(), flush=True)
    {"raise": lambda: [][1], "refuse": lambda: sys.exit(launch.refuse("x.py", OSError("no space"))),
     "kill": lambda: os.kill(os.getpid(), 9), "stop": lambda: os.kill(os.getpid(), 15), "exit": lambda: None}[how]()
elif waits == "computes":
    while how != "exit":
        float(total(x))  # waits for the other
else:
    time.sleep(60 if how != "exit" else 3)
"""


@pytest.mark.parametrize("waits", ["computes", "sleeps"])
@pytest.mark.parametrize(("how", "bad", "statuses"), [("raise", 0, {1}), ("raise", 1, {1}), ("refuse", 1, {2})])
def test_no_process_outlives_one_that_fails(how, bad, statuses, waits):
    ended = processes.run(2, "torchrun", "-c", DRIVER, how, bad, waits, timeout=60)
    began = float(ended[bad].out.split("failing at ")[1].split()[0])
    assert {end.status for end in ended} == statuses, [end.err for end in ended]
    assert max(end.at for end in ended) - began < 10
    if how == "raise":
        assert f"rank {bad} of 2 ended with IndexError: list index out of range; all processes end\n" in ended[0].err
        lines = [line for line in ended[bad].err.splitlines() if "all processes end" not in line]
        assert any("IndexError" in line for line in lines)
        assert all(line.startswith("[rank 1] ") for line in lines) == (bad == 1)
    else:
        assert (ended[0].err, ended[1].err) == ("x.py: rank 1: no space\n", "")


@pytest.mark.parametrize(("how", "bad", "status"), [("kill", 0, -9), ("kill", 1, -9), ("stop", 1, -15)])
def test_no_process_outlives_one_that_is_killed(how, bad, status):
    """In a collective, on CPUs. Without one the second's end is seen after 100 s, unless the launcher acts before."""
    ended = processes.run(2, "torchrun", "-c", DRIVER, how, bad, "computes", timeout=60)
    began = float(ended[bad].out.split("failing at ")[1].split()[0])
    assert ended[bad].status == status
    assert ended[1 - bad].status not in (0, 2)
    assert max(end.at for end in ended) - began < 10


def test_a_process_that_is_done_waits_for_the_others():
    ended = processes.run(2, "torchrun", "-c", DRIVER, "exit", 0, "sleeps", timeout=60)
    assert [(end.status, end.err) for end in ended] == [(0, "")] * 2


def test_a_script_of_one_process_says_so(tmp_path):
    line = [ROOT / "scripts" / "nature_run.py", "--out", "run.nc", "--N", "16"]
    ended = processes.run(2, "srun", *line, cwd=tmp_path)
    assert [end.status for end in ended] == [2, 2]
    cure = "this script is one; start it once, or set JAXDA_LAUNCH=single for as many runs"
    assert ended[0].err == f"nature_run: 2 processes were started by srun, and {cure}\n"
    assert ended[1].err == ""
    assert not os.listdir(tmp_path)
