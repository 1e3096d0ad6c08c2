"""Statistics over real ranks of MPI: the figures of one process, and an end for all if one fails.

Needs the extra `mpi` and an `mpirun`: pytest -m mpi. What the ranks do is in ranks_program.py.
"""

import json
import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np
import processes
import pytest
from parallel import ranks_program

from jaxda.parallel import ranks

pytestmark = pytest.mark.mpi

PROGRAM = Path(ranks_program.__file__)
SCALING = PROGRAM.parents[2] / "scripts" / "lorenz96_scaling.py"
PROBLEM = PROGRAM.parents[2] / "configs" / "lorenz96_1e6.toml"
#: one device a rank, whatever the tests have; Open MPI otherwise refuses root, and more ranks than cores
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "JAX_NUM_CPU_DEVICES": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
COUNTS = pytest.mark.parametrize("count", [2, 4])
KINDS = pytest.mark.parametrize("kind", ["mpi4jax", "mpi4py"])
#: relative; a mean of 1e4 has steps of 1e-3 in float32, which the error of a mean then has too
TOLERANCES = {"float32": {"mean": 2e-7, "estimate": 2e-7, "rmse": 1e-3}, "float64": {}}
OTHERWISE = {"float32": 5e-6, "float64": 1e-12}


def on_ranks(count, program, *words, launcher=True, timeout=240):
    """The finished program on this many ranks."""
    start = ["mpirun", "-n", str(count), sys.executable, "-m", "mpi4py"] if launcher else [sys.executable]
    words = [*start, str(program), *map(str, words)]
    environment = processes.environment() | ENVIRONMENT
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


@cache
def found_on(count):
    """What the ranks found."""
    done = on_ranks(count, PROGRAM, "statistics")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@COUNTS
@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ranks_program.SIZES)
def test_ranks_find_what_one_process_finds(count, kind, dtype, name):
    found = found_on(count)["statistics"][f"{kind} {name} {dtype}"]
    members, observed, truth = ranks_program.ensemble(ranks_program.SIZES[name], dtype)
    with jax.enable_x64(dtype == "float64"):
        expected = jax.device_get(ranks_program.statistics(ranks.alone(), members, observed, truth))
    del expected["first"]
    assert set(found["values"]) == set(expected)
    for what, value in expected.items():
        whole = what == "histogram"
        assert np.issubdtype(found["types"][what], np.integer) if whole else found["types"][what] == dtype
        tolerance = 0.0 if whole else TOLERANCES[dtype].get(what, OTHERWISE[dtype])
        np.testing.assert_allclose(found["values"][what], value, rtol=tolerance, atol=tolerance, err_msg=what)
    exact = members.astype(float)
    np.testing.assert_allclose(found["values"]["variance"], exact.var(0, ddof=1), rtol=5e-6)
    np.testing.assert_allclose(found["values"]["mean"], exact.mean(0), rtol=2e-7)


@COUNTS
@KINDS
@pytest.mark.parametrize(
    ("name", "sizes"), [("even", {2: [2, 2], 4: [1, 1, 1, 1]}), ("uneven", {2: [4, 3], 4: [2, 2, 2, 1]})]
)
def test_members_are_numbered_through_all_ranks(count, kind, name, sizes):
    firsts = found_on(count)["statistics"][f"{kind} {name} float32"]["firsts"]
    assert firsts == [0, *np.cumsum(sizes[count])[:-1]]


@COUNTS
def test_the_launcher_is_recognised_and_mpi4jax_taken(count):
    known, size, dtype = found_on(count)["auto"]
    assert known
    assert size == count
    assert dtype == "int32"  # an array of JAX: over mpi4py it is a Python int


def test_what_mpi_cannot_do_is_refused():
    said = found_on(2)["refusals"]
    for case in ("grad", "jitted grad", "jvp"):
        assert said[case].startswith("derivatives of statistics over mpi4jax would be wrong; use collectives over_axis")
    assert said["jit"].startswith("statistics over mpi4py run on the host, not inside of jit; use mpi4jax")
    assert said["float16"] == "members are float16; sums over ranks need float32 or float64"


@COUNTS
@KINDS
def test_a_rank_that_fails_brings_all_down_with_its_message(count, kind):
    done = on_ranks(count, PROGRAM, "fail", kind, timeout=120)
    ended = time.time()
    assert done.returncode != 0
    assert "RuntimeError: the member of this rank blew up" in done.stderr
    assert ended - float(re.search(r"raised at ([\d.]+)", done.stdout)[1]) < 10.0


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return scaling(tmp_path_factory.mktemp("one"), 1, "none", launcher=False)


def scaling(folder, count, kind, **more):
    """Four members of the scaling problem over this many ranks."""
    words = ("--d", 200, "--cycles", 10, "--members", 4 // count, "--mpi", kind, "--json", folder / "scores.json")
    done = on_ranks(count, SCALING, PROBLEM, *words, **more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cycle 9: RMSE") == 1  # one rank speaks
    content = json.loads((folder / "scores.json").read_text())
    assert content["ranks"] == count
    return content


@COUNTS
@KINDS
def test_scaling_problem_does_not_depend_on_the_ranks(tmp_path, one_process, count, kind):
    found = scaling(tmp_path, count, kind)
    for what in ("rmse", "spread"):
        np.testing.assert_allclose(found[what], one_process[what], rtol=1e-5)


def test_bad_flags_are_said_once_for_all_ranks():
    done = on_ranks(2, SCALING, PROBLEM, "--d", 3, timeout=120)
    assert done.returncode == 2
    wrong = f"lorenz96_scaling.py: {PROBLEM}: d = 3: Input should be greater than or equal to 4"
    assert done.stderr.count(wrong) == 1
