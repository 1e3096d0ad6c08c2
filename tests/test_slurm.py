"""Job files: they parse, each rank has its own seed and folder, jobs go back into the queue. srun is a stand-in."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import processes
import pytest

from jaxda.parallel import stopping

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "slurm"
FILES = sorted(FOLDER.glob("*.sh"))
JOBS = [path for path in FILES if path.read_text().startswith("#!")]
SRUN = """#!/bin/bash
# Two tasks, here, at once.
echo "$@" > srun-options
while [[ $1 == --* ]]; do shift; done
for rank in 0 1; do
    SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
    tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
for task in "${tasks[@]}"; do
    wait "$task"; code=$?
    while kill -0 "$task" 2> /dev/null; do wait "$task"; code=$?; done  # a signal ends a wait
    ((code)) && status=$code
done
exit ${status:-0}
"""
PYTHON = """#!/bin/bash
printf '%s\\n' "$PWD" "$JAX_COMPILATION_CACHE_DIR" "${JAXDA_LAUNCH:-}" "$@" > "called-by-$SLURM_PROCID"
if [ -n "${SLEEP:-}" ]; then exec sleep "$SLEEP"; fi
exit ${FAIL:-0}
"""
NOTES = """#!/bin/bash
echo "$(basename "$0") $*" >> commands
"""


@pytest.fixture
def where(tmp_path):
    """The folder that jobs are submitted in: the repository, with a blank in its name."""
    folder = tmp_path / "where it was submitted"
    folder.mkdir()
    for name in ("slurm", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def start(tmp_path, where):
    """A function: arguments of a job and further environment -> the job, begun; python is a stand-in unless `real`."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()

    def run(*arguments, script="osse.sh", real=False, **environment):
        python = f'#!/bin/bash\nexec "{sys.executable}" "$@"\n' if real else PYTHON
        for name, text in (("srun", SRUN), ("python", python), ("module", NOTES), ("scontrol", NOTES)):
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        env = {name: value for name, value in processes.environment().items() if name != "USER"}
        env |= {"PATH": f"{bin_}:{env['PATH']}", "SLURM_SUBMIT_DIR": str(where), "SLURM_JOB_ID": "42"}
        env |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)} | environment
        files = {name: subprocess.PIPE for name in ("stdout", "stderr")}
        # Slurm runs a copy of the job file from a folder of its own
        copy = tmp_path / "slurm_script"
        copy.write_text((FOLDER / script).read_text())
        return subprocess.Popen(["bash", copy, *arguments], env=env, cwd=tmp_path, text=True, **files)

    return run


@pytest.fixture
def submit(start, where):
    """A function: arguments of a job and further environment -> the finished job and the call of each rank."""

    def run(*arguments, **more):
        job = start(*arguments, **more)
        out, err = job.communicate(timeout=300)
        done = subprocess.CompletedProcess(job.args, job.returncode, out, err)
        return done, [path.read_text().splitlines() for path in sorted(where.glob("called-by-*"))]

    return run


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_job_files_parse(path):
    result = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert path.read_text().startswith("#!/bin/bash" if path in JOBS else "# shellcheck shell=bash")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_that_goes_on_where_it_was_stopped_says_so_to_slurm(path):
    text = path.read_text()
    assert ("#SBATCH --requeue" in text) == ("resumable " in text) == ("--signal=B:USR1@120" in text)
    assert ("#SBATCH --requeue" in text) != ("#SBATCH --no-requeue" in text)


def test_every_rank_has_its_own_seed_and_folder(submit, where):
    job, calls = submit("configs/some name.toml", "--title", "two words", "--cycles", "3")
    assert job.returncode == 0, job.stderr
    out = "runs/some name-42"
    assert (where / out).is_dir()
    assert calls == [
        [
            *[str(where), str(where / "runs" / ".jax_cache"), "single"],
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
    assert [call[6] for call in calls] == ["runs/a-local/seed-0", "runs/a-local/seed-1"]


def test_the_machine_is_prepared(submit, where):
    assert submit("a.toml")[0].returncode == 0
    assert (where / "commands").read_text() == "module load rocm/7.2.0 craype-accel-amd-gfx90a rccl-net-plugin\n"
    assert (
        "--gpus-per-task=1 --gpu-bind=closest --cpus-per-task=1 --kill-on-bad-exit=0"
        in (where / "srun-options").read_text()
    )
    assert submit("a.toml", script="osse_one.sh", JAXDA_MACHINE="nvidia", SLURM_CPUS_PER_TASK="16")[0].returncode == 0
    options = (where / "srun-options").read_text()
    assert "--gpus-per-task=1 --cpus-per-task=16 --kill-on-bad-exit=1" in options
    assert "--gpu-bind" not in options
    assert (where / "commands").read_text().count("module") == 1
    job, _ = submit("a.toml", JAXDA_MACHINE="abacus")
    assert job.returncode == 2
    assert job.stderr.startswith("JAXDA_MACHINE = abacus: no slurm/abacus.env.sh in ")
    assert job.stderr.count("\n") == 1


def test_a_failing_rank_fails_the_job(submit):
    job, calls = submit("a.toml", FAIL="3")
    assert (job.returncode, len(calls)) == (3, 2)


def test_a_search_keeps_its_folders_from_job_to_job(submit):
    for number in ("42", "43"):
        job, calls = submit(
            "configs/some name.toml", "a (1)", "--values", "x=1,2", script="tune.sh", SLURM_JOB_ID=number
        )
        assert job.returncode == 0, job.stderr
        assert [call[3:] for call in calls] == [
            [
                *["scripts/tune.py", "configs/some name.toml", "--filter", "a (1)"],
                *["--out", f"runs/tune-some name-a (1)/seed-{rank}", "--seed", str(rank), "--values", "x=1,2"],
            ]
            for rank in range(2)
        ]
    assert submit("a.toml", "b", "--values", "x=1", script="tune.sh", FAIL="3")[0].returncode == 3


TRAINING = "configs/vit_64.toml --parallel.strategy zero3 --out runs/vit_64-zero3 --train.steps 9"
ONE_RUN = {
    "osse_one.sh": ("a.toml --members 64", "scripts/osse.py a.toml --out runs/a-42 --members 64"),
    "train.sh": ("configs/vit_64.toml zero3 --train.steps 9", f"scripts/train_vit.py {TRAINING}"),
    "lorenz96_scaling.sh": ("a.toml --members 8", "-m mpi4py scripts/lorenz96_scaling.py a.toml --members 8"),
}


@pytest.mark.parametrize("script", ONE_RUN)
def test_one_run_over_all_ranks_has_one_command(submit, script):
    given, called = ONE_RUN[script]
    job, calls = submit(*given.split(), script=script)
    assert job.returncode == 0, job.stderr
    assert [call[2:] for call in calls] == [["", *called.split()]] * 2  # JAXDA_LAUNCH is not set


def test_the_tasks_of_an_array_have_other_seeds(submit):
    array = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
    _, calls = submit("a.toml", "ddp", script="train.sh", **array)
    assert calls[0][6:] == ["ddp", "--out", "runs/a-ddp-seed-3", "--train.seed", "3"]
    _, calls = submit("long", "--N", "64", script="nature.sh", **array)
    assert [call[3:] for call in calls] == [
        ["scripts/nature_run.py", "--resume", "--out", f"runs/long/seed-{seed}.nc", "--seed", str(seed), "--N", "64"]
        for seed in (6, 7)
    ]


TOO_LITTLE = {"tune.sh": ("a.toml", "LETKF"), "train.sh": ("a.toml",)}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_without_what_it_needs_it_says_how_it_is_used(submit, where, path):
    job, calls = submit(*TOO_LITTLE.get(path.name, ()), script=path.name)
    assert (job.returncode, calls, job.stdout) == (2, [], "")
    assert job.stderr.startswith(f"usage: sbatch slurm/{path.name} ")
    assert not (where / "runs").exists()


def test_a_run_that_was_stopped_is_put_back_whoever_stopped_it(submit, where):
    """Its status says so: the job file has that of the package."""
    job, _ = submit("a.toml", FAIL=str(stopping.REQUEUE))
    assert job.returncode == 0, job.stderr
    assert (where / "commands").read_text().splitlines()[1:] == ["scontrol requeue 42"]


@pytest.mark.parametrize(
    ("array", "number"), [({}, "42"), ({"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"}, "40_1")]
)
def test_before_the_time_is_over_a_job_is_put_back(start, where, array, number):
    job = start("a.toml", "ddp", script="train.sh", SLEEP="120", **array)
    until(lambda: len(list(where.glob("called-by-*"))) == 2, job)
    job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 0, err
    assert (where / "commands").read_text().splitlines()[1:] == [f"scontrol requeue {number}"]


def until(condition, job, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


# Real runs

SMALL = """
members = 4
cycles = 2
interval_hours = 6.0
[model]
kind = "lorenz96"
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
noise = 1.0
[output]
figures = false
fields = false
[filters.free-run]
kind = "free-run"
"""


@pytest.mark.long
def test_seeds_and_one_experiment_over_all_ranks(submit, where):
    (where / "small.toml").write_text(SMALL)
    job, _ = submit("small.toml", real=True)
    assert job.returncode == 0, job.stderr
    seeds = [(where / "runs" / "small-42" / f"seed-{seed}" / "scores.csv").read_text() for seed in (0, 1)]
    assert seeds[0] != seeds[1]
    assert job.stderr.count("1 process, ") == 2
    job, _ = submit("small.toml", script="osse_one.sh", real=True, SLURM_JOB_ID="4711")
    assert job.returncode == 0, job.stderr
    assert "2 processes (srun), 2 x cpu" in job.stderr
    together = (where / "runs" / "small-4711" / "scores.csv").read_text().splitlines()
    for one, two in zip(seeds[0].splitlines()[1:], together[1:], strict=True):  # seed 0 is the default
        np.testing.assert_allclose(*([float(v) for v in line.split(",")[1:]] for line in (one, two)), rtol=1e-5)


@pytest.mark.long
def test_experiments_go_on_after_they_were_put_back(start, submit, where):
    (where / "small.toml").write_text(SMALL.replace("cycles = 2", "cycles = 20000"))
    job = start("small.toml", real=True)
    kept = [where / "runs" / "small-42" / f"seed-{seed}" / "checkpoints" / "free-run" for seed in (0, 1)]
    until(lambda: all(any(path.name.isdecimal() for path in folder.glob("*")) for folder in kept), job)
    job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    assert "scontrol requeue 42" in (where / "commands").read_text()
    assert err.count("osse.py: stopped by SIGTERM, all that is done is kept; --resume goes on") == 2
    again, _ = submit("small.toml", real=True, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert all((folder.parents[1] / "scores.csv").read_text().count("\n") == 20001 for folder in kept)


@pytest.mark.long
def test_a_nature_run_goes_on_after_it_was_put_back(start, submit, where):
    """Days enough that it is stopped on its way."""
    words = ("short", "--N", "16", "--spinup-days", "1", "--days", "4000")
    job = start(*words, script="nature.sh", real=True)
    files = [where / "runs" / "short" / f"seed-{seed}.nc" for seed in (0, 1)]
    until(lambda: all(days(file) for file in files), job)
    job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    assert "scontrol requeue 42" in (where / "commands").read_text()
    stopped = [days(file) for file in files]
    assert all(0 < done < 4000 for done in stopped)
    more = max(stopped) + 5
    again, _ = submit(*words[:-1], str(more), script="nature.sh", real=True)
    assert again.returncode == 0, again.stderr
    assert [days(file) for file in files] == [more, more]
    third, _ = submit(*words[:-1], str(more), script="nature.sh", real=True)
    assert (third.returncode, third.stdout.count("all days are there")) == (0, 2)


def days(file):
    """Length of what a nature run has saved, 0 while there is nothing to read."""
    try:
        with netCDF4.Dataset(file) as nc:
            return float(np.ptp(nc["t"][:])) / 86400 if len(nc["t"]) else 0.0
    except (OSError, IndexError):  # no file yet, or no variable in it
        return 0.0
