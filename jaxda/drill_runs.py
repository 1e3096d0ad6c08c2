"""Small runs of every kind, for faults to be done to them: a script each, in a process of its own, and what it leaves.

A process is a fork of this one, which has imported what it needs and has touched no device; where devices are in use
already, or a fresh one is asked for, it begins from the start.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import netCDF4
import numpy as np
from jax._src import xla_bridge  # whether devices were used has no public name

from jaxda import figures, nature, resuming, surrogate  # noqa: F401 (what the forks need)
from jaxda.realtime import loop  # noqa: F401

SCRIPTS = Path(__file__).parents[1] / "scripts"
EXPERIMENT = """
members = 10
cycles = {cycles}
interval_hours = 12.0
[model]
kind = "sqg"
N = 32
[nature]
spinup_days = 20.0
climate_days = 20.0
[initial]
kind = "{initial}"
[output]
figures = false
[filters.LETKF]
kind = "letkf"
cutoff = 2500.0
rtps = 0.4
"""
TRAINING = """
[model]
N = 16
[series]
file = "{file}"
[vit]
image_size = 16
embed_dim = 8
depth = 2
num_heads = 2
decoder_depth = 0
residual = true
aggregation = "joint"
dropout = 0.0
drop_path = 0.0
[data]
lead_hours = [12.0]
gap_hours = 24.0
batch = 4
validation = 0.2
[train]
steps = 120
warmup = 5
validate_every = 10
validation_leads = 2
ema = 0.9
"""
#: of the processes
OWN = {"PYTHONPATH": str(SCRIPTS.parent), "JAX_NUM_CPU_DEVICES": "1"}


@dataclass(frozen=True)
class Run:
    """A script and what of its output has to be the same.

    Attributes:
        words: of the command line without the folder.
        results: folder -> everything that is compared, times of computing aside.
        prepare: puts into a new folder what the run needs there.
        out: folder -> words that name its output.
    """

    name: str
    words: tuple[str, ...]
    results: Callable[[Path], dict]
    prepare: Callable[[Path], None] = lambda folder: None
    out: Callable[[Path], tuple[str, ...]] = lambda folder: ("--out", str(folder / "run"))

    def line(self, folder: Path) -> list[str]:
        """The script and its words, begun or gone on with."""
        return [str(SCRIPTS / self.words[0]), *self.words[1:], "--resume", *self.out(folder)]

    def start(self, folder: Path, before: tuple[str, ...] = (), **more: str) -> subprocess.Popen:
        """A fresh process; what it says goes to `folder/said`."""
        with (folder / "said").open("w") as said:
            line = (sys.executable, *before, *self.line(folder))
            return subprocess.Popen(line, env=os.environ | OWN | more, stdout=subprocess.DEVNULL, stderr=said)

    def fork(self, folder: Path) -> multiprocessing.Process:
        """A fork, likewise; where devices are in use already, which none may be made of, a process from the start."""
        context = multiprocessing.get_context("spawn" if xla_bridge.backends_are_initialized() else "fork")
        process = context.Process(target=_become, args=(self.line(folder), folder / "said"))
        process.start()
        return process

    def new(self, folder: Path) -> Path:
        """A new folder for it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.prepare(folder)
        return folder


def _become(line: list[str], said: Path) -> None:
    """A script, in a process that has imported most of what it needs."""
    os.environ.update(OWN)
    jax.config.update("jax_num_cpu_devices", 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # those of the process that it was forked from may lead elsewhere, into the captures of pytest for instance
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = line
    runpy.run_path(line[0], run_name="__main__")


# What is compared


def arrays_of(path: Path) -> dict:
    """All numbers in a NetCDF file, as bytes."""
    with netCDF4.Dataset(path) as nc:
        nc.set_auto_mask(False)
        return {f"{path.name}:{name}": np.asarray(v[:]).tobytes() for name, v in nc.variables.items() if v.dtype != str}


def table_of(path: Path, leave_out: Callable[[str], bool] = lambda name: False) -> dict:
    """Columns of a CSV file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0] if not leave_out(name)}


def of_osse(folder: Path) -> dict:
    """Scores as they are written, and analyses."""
    return table_of(folder / "run" / "scores.csv") | arrays_of(folder / "run" / "analysis.nc")


def of_training(folder: Path) -> dict:
    """Every validation to its last digit."""
    timed = lambda name: name.endswith("_per_s") or name in ("seconds", "mfu", "tflops", "samples_per_second")
    scores = lambda name: name == "step" or name.startswith(("rmse", "correlation", "loss", "learning"))
    return table_of(folder / "run" / "log.csv", lambda name: timed(name) or not scores(name))


def of_nature(folder: Path) -> dict:
    """States and times."""
    return arrays_of(folder / "run.nc")


def of_realtime(folder: Path) -> dict:
    """The table of the cycles but for its times, and every product."""
    clock = ("waiting_s", "reading_s", "analysis_s", "learning_s", "forecast_s", "writing_s", "lateness_s", "queue")
    found = table_of(folder / "run" / "status.csv", lambda name: name in clock)
    for path in sorted((folder / "run").glob("analysis_*.nc")):
        found |= arrays_of(path)
    return found | {"used": sorted(path.name for path in (folder / "watch" / "used").glob("*.nc"))}


def make_runs(folder: Path) -> dict[str, Run]:
    """The runs, whose configurations and input go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    env = os.environ | OWN
    call = lambda *words: subprocess.run([sys.executable, SCRIPTS / words[0], *words[1:]], env=env, check=True)
    experiment, realtime, training = (folder / f"{name}.toml" for name in ("osse", "realtime", "training"))
    experiment.write_text(EXPERIMENT.format(cycles=50, initial="truth-plus-noise"))
    realtime.write_text(EXPERIMENT.format(cycles=12, initial="climatology"))
    training.write_text(TRAINING.format(file=folder / "series.nc"))
    if not (folder / "series.nc").exists():
        call("nature_run.py", "--N", "16", "--spinup-days", "20", "--days", "60", "--out", folder / "series.nc")
    if not (folder / "sent").exists():
        call("feed.py", realtime, "--to", folder / "sent")
    watch = lambda own: ("--watch", str(own / "watch"), "--out", str(own / "run"))
    alone = ("nature_run.py", "--N", "64", "--spinup-days", "10", "--days", "20", "--interval-hours", "3")
    wait = ("--every", "0", "--grace", "999999", "--poll", "0.02")
    return {
        "osse": Run("osse", ("osse.py", str(experiment)), of_osse),
        "training": Run("training", ("train_vit.py", str(training)), of_training),
        "nature": Run("nature", alone, of_nature, out=lambda own: ("--out", str(own / "run.nc"))),
        "realtime": Run(
            "realtime",
            ("realtime.py", str(realtime), *wait),
            of_realtime,
            prepare=lambda own: shutil.copytree(folder / "sent", own / "watch"),
            out=watch,
        ),
    }
