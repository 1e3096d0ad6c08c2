"""Job files: they parse, and every rank gets its own seed and folder. srun and python are stand-ins."""

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "slurm"
JOBS = sorted(FOLDER.glob("*.sh"))
SRUN = """#!/bin/bash
# Two tasks, here, one after the other.
while [[ $1 == --* ]]; do shift; done
for rank in 0 1; do
    SLURM_PROCID=$rank "$@" || status=$?
done
exit ${status:-0}
"""
PYTHON = """#!/bin/bash
printf '%s\\n' "$PWD" "$JAX_COMPILATION_CACHE_DIR" "$@" > "called-by-$SLURM_PROCID"
exit ${FAIL:-0}
"""


@pytest.fixture
def submit(tmp_path):
    """A function: arguments of a job and further environment -> the finished job and the call of each rank."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, text in (("srun", SRUN), ("python", PYTHON)):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    where = tmp_path / "where it was submitted"
    where.mkdir()

    def run(*arguments, script="osse.sh", **environment):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_"))}
        env |= {"PATH": f"{bin_}:{env['PATH']}", "SLURM_SUBMIT_DIR": str(where), "SLURM_JOB_ID": "42"} | environment
        job = subprocess.run(
            ["bash", FOLDER / script, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        return job, [path.read_text().splitlines() for path in sorted(where.glob("called-by-*"))]

    return run


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job_files_parse(path):
    result = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert path.read_text().startswith("#!/bin/bash")


def test_every_rank_has_its_own_seed_and_folder(submit, tmp_path):
    job, calls = submit("configs/some name.toml", "--title", "two words", "--cycles", "3")
    assert job.returncode == 0, job.stderr
    where = tmp_path / "where it was submitted"
    out = "runs/some name-42"
    assert (where / out).is_dir()
    assert calls == [
        [
            *[str(where), str(where / "runs" / ".jax_cache")],
            *["scripts/osse.py", "configs/some name.toml", "--out", f"{out}/seed-{rank}", "--seed", str(rank)],
            *["--title", "two words", "--cycles", "3"],
        ]
        for rank in range(2)
    ]


def test_outside_a_job_and_with_a_cache_of_ones_own(submit, tmp_path):
    cache = tmp_path / "cache"
    job, calls = submit("a.toml", SLURM_JOB_ID="", JAX_COMPILATION_CACHE_DIR=str(cache))
    assert job.returncode == 0, job.stderr
    assert cache.is_dir()
    assert [call[1] for call in calls] == [str(cache)] * 2
    assert [call[5] for call in calls] == ["runs/a-local/seed-0", "runs/a-local/seed-1"]


def test_a_failing_rank_fails_the_job(submit):
    job, calls = submit("a.toml", FAIL="3")
    assert (job.returncode, len(calls)) == (3, 2)


def test_a_search_keeps_its_folders_from_job_to_job(submit, tmp_path):
    for number in ("42", "43"):
        job, calls = submit(
            "configs/some name.toml", "a (1)", "--values", "x=1,2", script="tune.sh", SLURM_JOB_ID=number
        )
        assert job.returncode == 0, job.stderr
        assert [call[2:] for call in calls] == [
            [
                *["scripts/tune.py", "configs/some name.toml", "--filter", "a (1)"],
                *["--out", f"runs/tune-some name-a (1)/seed-{rank}", "--seed", str(rank), "--values", "x=1,2"],
            ]
            for rank in range(2)
        ]
    assert submit("a.toml", "b", "--values", "x=1", script="tune.sh", FAIL="3")[0].returncode == 3


@pytest.mark.parametrize(("script", "given"), [("osse.sh", ()), ("tune.sh", ("a.toml", "LETKF"))])
def test_without_what_it_needs_it_says_how_it_is_used(submit, tmp_path, script, given):
    job, calls = submit(*given, script=script)
    assert (job.returncode, calls, job.stdout) == (2, [], "")
    assert job.stderr.startswith(f"usage: sbatch slurm/{script} CONFIG")
    assert not (tmp_path / "where it was submitted" / "runs").exists()
