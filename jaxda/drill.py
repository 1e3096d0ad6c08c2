"""Faults done to real runs on purpose, and whether the runs end with the numbers of undisturbed ones.

Each run is a script in a process of its own, small enough to start in seconds: a fork of this one, which has imported
what it needs and has touched no device, where nothing asks for a fresh one. A fault is survived if the run, started
again with --resume as often as it takes, ends with the same scores and fields bit for bit; it is refused if the run
says in one line why it can't go on, with status 1 or 2. All else is a failure.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
#: a clock that jumps by a day forwards or backwards every so many calls, for a script that runs in it
CLOCK = """
import runpy, sys, time
real, calls = time.time, [0]
def jumping():
    calls[0] += 1
    return real() + 86400.0 * ((calls[0] // 7) % 3 - 1)
time.time = jumping
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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


@dataclass
class Tally:
    """What came of one kind of fault: how many were tried, survived and refused, failures in words, seconds lost."""

    fault: str
    run: str
    tried: int = 0
    same: int = 0
    refused: int = 0
    lost: float = 0.0
    failures: list[str] = field(default_factory=list)


def _become(line: list[str], said: Path) -> None:
    """A script, in a process that has imported most of what it needs."""
    os.environ.update(OWN)
    jax.config.update("jax_num_cpu_devices", 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # those of the process that it was forked from may lead elsewhere, into the captures of pytest for instance
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
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


def _ended(process: multiprocessing.Process) -> int:
    """Its exit status, when it has one; minus the number of the signal that ended it."""
    process.join()
    return process.exitcode


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


class Drill:
    """Faults and their tallies; `expected` and `seconds` are of undisturbed runs.

    Args:
        folder: to work in; what of a failure remains is there.
        seed: of the moments and places.
        say: told what is done.
    """

    def __init__(self, folder: Path, seed: int, say: Callable[[str], None]):
        self.folder, self.random, self.say = folder.resolve(), np.random.default_rng(seed), say
        self.runs = make_runs(self.folder / "input")
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.expected: dict[str, dict] = {}
        self.seconds: dict[str, float] = {}

    def undisturbed(self, name: str) -> Run:
        """A run, which was done once to its end before anything is done to it."""
        run = self.runs[name]
        for _ in range(0 if name in self.expected else 2):  # the first compiles
            own, began = run.new(self.folder / f"whole-{name}"), time.monotonic()
            status = _ended(run.fork(own))
            self.seconds[name] = time.monotonic() - began
            if status:
                raise RuntimeError(f"{name} ended with status {status}: {(own / 'said').read_text()[-2000:]}")
            self.expected[name] = run.results(own)
            self.say(f"{name}: {self.seconds[name]:.1f} s undisturbed")
        return run

    def judge(self, fault: str, name: str, folder: Path, lost: float = 0.0, count: int = 1) -> None:
        """Go on with a run to its end, count what came of it and say how it stands."""
        self._judge(fault, name, folder, lost, count)
        self.say(table({0: self.tallies[fault, name]})[-1])

    def _judge(self, fault: str, name: str, folder: Path, lost: float, count: int) -> None:
        tally = self.tallies.setdefault((fault, name), Tally(fault, name))
        run, began = self.runs[name], time.monotonic()
        status = _ended(run.fork(folder))
        said = (folder / "said").read_text().splitlines()
        tally.tried += count
        tally.lost += lost + time.monotonic() - began if count else 0.0
        found = None
        if status == 0:
            found = run.results(folder)
            wrong = [key for key in self.expected[name] if found.get(key) != self.expected[name][key]]
        if status == 0 and not wrong and len(found) == len(self.expected[name]):
            tally.same += count
            shutil.rmtree(folder)
            return
        complaints = [line for line in said if line.startswith((f"{run.words[0]}:", "nature_run:"))]
        if status in (1, 2) and len(complaints) == 1 and not any("Traceback" in line for line in said):
            tally.refused += count
            self.say(f"{fault}, {name}: {complaints[0]}")
            shutil.rmtree(folder)
            return
        what = f"other {wrong[:3]}" if status == 0 else f"status {status}: {said[-1:] if said else ''}"
        kept = folder.with_name(f"failed-{len(tally.failures)}-{fault.replace(' ', '-')}-{name}")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        tally.failures.append(f"{what}, see {kept}")
        self.say(f"FAILED {fault}, {name}: {tally.failures[-1]}")

    def signalled(self, fault: str, name: str, number: int, times: int) -> None:
        """End a run by a signal at random moments, so many times over as many runs as that takes."""
        run, left = self.undisturbed(name), times
        while left:
            folder, count, began = run.new(self.folder / "own"), 0, time.monotonic()
            while left:
                process = run.fork(folder)
                process.join(float(self.random.uniform(0.1, 1.0) * self.seconds[name]))
                if process.exitcode is not None:
                    break
                os.kill(process.pid, number)
                if _ended(process) not in (75, -number):  # the latter of one that did not hear signals yet
                    break  # at its end, or judged there
                left, count = left - 1, count + 1
            self.judge(fault, name, folder, time.monotonic() - began - self.seconds[name], count)

    def interrupted(self, name: str, where: str) -> Path:
        """The folder of a run that was stopped on its way, a copy for each fault."""
        kept, run = self.folder / f"stopped-{name}", self.undisturbed(name)
        share = 0.6
        while not kept.exists():
            folder = run.new(self.folder / "own")
            process = run.fork(folder)
            process.join(share * self.seconds[name])
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGTERM)
            if _ended(process) == 75 and len(list(folder.glob(where))) > 1:
                folder.rename(kept)
            share += 0.05 if not list(folder.glob(where)) else -0.03
        own = self.folder / "own"
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(kept, own)
        return own

    def changed(self, fault: str, name: str, path: Path, folder: Path, cut: float | None = None) -> None:
        """Flip a bit of a file, or cut it off at a part of its length, and go on."""
        data = bytearray(path.read_bytes())
        if cut is None:
            data[self.random.integers(len(data))] ^= 1 << self.random.integers(8)
        path.write_bytes(data if cut is None else data[: int(cut * len(data))])
        self.judge(fault, name, folder)

    def checkpoints_changed(self, name: str, positions: int) -> None:
        """The newest checkpoint cut off at so many positions, and a bit flipped in each of its files."""
        where = "run/checkpoints/*/[0-9]*" if name == "osse" else "run/checkpoints/[0-9]*"
        newest = lambda own: max(own.glob(where), key=lambda path: int(path.name))
        names = lambda own: sorted(p.relative_to(newest(own)) for p in newest(own).rglob("*") if p.is_file())
        for position in range(positions):
            own = self.interrupted(name, where)
            path = newest(own) / names(own)[position % len(names(own))]
            self.changed("checkpoint cut off", name, path, own, (position + 0.5) / positions)
        for number in range(len(names(self.interrupted(name, where)))):
            own = self.interrupted(name, where)
            self.changed("bit flipped in a checkpoint", name, newest(own) / names(own)[number], own)

    def files_changed(self) -> None:
        """A bit flipped in each kind of file but checkpoints."""
        stopped = {"osse": ("run/fields/*", "run/config.toml", "run/record.json")}
        stopped |= {"realtime": ("watch/*.nc", "run/start.npz", "run/status.csv")}
        where = {"osse": "run/checkpoints/*/[0-9]*", "realtime": "run/checkpoints/[0-9]*"}
        for name, patterns in stopped.items():
            for pattern in patterns:
                own = self.interrupted(name, where[name])
                path = sorted(own.glob(pattern))[-1]
                self.changed(f"bit flipped in {path.name if name == 'realtime' else pattern[4:]}", name, path, own)
        for file in ("analysis.nc", "scores.csv", "SHA256SUMS"):
            own = self.folder / "own"
            shutil.copytree(self.folder / "whole-osse", own)
            self.changed(f"bit flipped in {file}", "osse", own / "run" / file, own)
        for _ in range(5):
            own = self._half_nature()
            self.changed("bit flipped in run.nc", "nature", own / "run.nc", own)

    def _half_nature(self) -> Path:
        """A nature run that has half of its states."""
        own = self.undisturbed("nature").new(self.folder / "own")
        words = ("--days", "10", "--out", str(own / "run.nc"))
        line = [sys.executable, str(SCRIPTS / "nature_run.py"), *self.runs["nature"].words[1:], *words]
        subprocess.run(line, env=os.environ | OWN, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return own

    def disk_full(self, name: str, sizes: tuple[int, ...]) -> None:
        """A limit on the size of files, which writes fail at as on a full disk; then none."""
        limited = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
        limited += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        tally = self.tallies.setdefault(("disk full", name), Tally("disk full", name))
        for size in sizes:
            run = self.undisturbed(name)
            own, began = run.new(self.folder / "own"), time.monotonic()
            status = run.start(own, ("-c", limited, str(size)), JAXDA_CACHE="off").wait()
            said = (own / "said").read_text()
            if status not in (0, 1, 2) or "Traceback" in said:
                tally.failures.append(f"limit {size}: status {status}, {said[-300:]}")
                self.say(f"FAILED disk full, {name}: {tally.failures[-1]}")
            self.judge("disk full", name, own, time.monotonic() - began)

    def clock_jumps(self, name: str) -> None:
        """A whole run under a clock that jumps."""
        run = self.undisturbed(name)
        own, began = run.new(self.folder / "own"), time.monotonic()
        run.start(own, ("-c", CLOCK)).wait()
        self.judge("clock jumps", name, own, time.monotonic() - began - self.seconds[name])

    def rank_killed(self, times: int) -> None:
        """One of two processes of an experiment killed, then both started again."""
        run = self.undisturbed("osse")
        tally = self.tallies.setdefault(("one rank of two killed", "osse"), Tally("one rank of two killed", "osse"))
        whole = run.new(self.folder / "whole-two")
        self._two(run, whole)
        began = time.monotonic()
        expected, seconds = run.results(whole), None
        for number in range(times):
            own, began = run.new(self.folder / "own"), time.monotonic()
            seconds = seconds or 2.5 * self.seconds["osse"]
            self._two(run, own, kill=(number % 2, float(self.random.uniform(0.4, 0.9) * seconds)))
            statuses = self._two(run, own)
            tally.tried += 1
            tally.lost += time.monotonic() - began
            if statuses == [0, 0] and run.results(own) == expected:
                tally.same += 1
            else:
                tally.failures.append(f"statuses {statuses}: {(own / 'said').read_text()[-300:]}")
                self.say(f"FAILED one rank killed: {tally.failures[-1]}")

    def _two(self, run: Run, folder: Path, kill: tuple[int, float] | None = None) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [run.start(folder, **launcher, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
        if kill is not None:
            time.sleep(kill[1])
            ranks[kill[0]].kill()
        return [rank.wait(600) for rank in ranks]


def table(tallies: Mapping[object, Tally]) -> list[str]:
    """Lines of a Markdown table: how many faults were tried, survived, refused and failed, seconds lost for each."""
    lines = ["| fault | run | tried | same | refused | failed | seconds lost |", "|---|---|---:|---:|---:|---:|---:|"]
    for t in tallies.values():
        counts = (t.tried, t.same, t.refused, len(t.failures))
        cells = (t.fault, t.run, *map(str, counts), f"{t.lost / max(1, t.tried):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines
