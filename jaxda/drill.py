"""Faults done to real runs on purpose, and whether the runs end with the numbers of undisturbed ones.

The runs are those of `drill_runs`, small enough to start in seconds. A fault is survived if the run, started
again with --resume as often as it takes, ends with the same scores and fields bit for bit; it is refused if the run
says in one line why it can't go on, with status 1 or 2. All else is a failure.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxda.drill_runs import OWN, SCRIPTS, Run, make_runs

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


def _ended(process: multiprocessing.Process) -> int:
    """Its exit status, when it has one; minus the number of the signal that ended it."""
    process.join()
    return process.exitcode


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
        while not kept.exists():
            folder = run.new(self.folder / "own")
            process = run.fork(folder)
            while process.exitcode is None and len(list(folder.glob(where))) < 2:
                process.join(0.002)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGTERM)
            if _ended(process) == 75:
                folder.rename(kept)
        own = self.folder / "own"
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(kept, own)
        return own

    def changed(self, fault: str, name: str, path: Path, folder: Path, cut: float | None = None) -> None:
        """Flip a bit of a file, or cut it off at a part of its length, and go on."""
        if cut is None:
            self._flip(path)
        else:
            os.truncate(path, int(cut * path.stat().st_size))
        self.judge(fault, name, folder)

    def _flip(self, path: Path) -> None:
        """Another bit somewhere in a file."""
        data = bytearray(path.read_bytes())
        data[self.random.integers(len(data))] ^= 1 << self.random.integers(8)
        path.write_bytes(data)

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
        stopped |= {"realtime": ("run/start.npz", "run/status.csv")}
        where = {"osse": "run/checkpoints/*/[0-9]*", "realtime": "run/checkpoints/[0-9]*"}
        for name, patterns in stopped.items():
            for pattern in patterns:
                own = self.interrupted(name, where[name])
                path = sorted(own.glob(pattern))[-1]
                self.changed(f"bit flipped in {pattern[4:]}", name, path, own)
        self._observations_changed(where["realtime"])
        for file in ("analysis.nc", "scores.csv", "SHA256SUMS"):
            own = self.folder / "own"
            shutil.copytree(self.folder / "whole-osse", own)
            self.changed(f"bit flipped in {file}", "osse", own / "run" / file, own)
        for _ in range(5):
            own = self._half_nature()
            self.changed("bit flipped in run.nc", "nature", own / "run.nc", own)

    def _observations_changed(self, where: str) -> None:
        """A bit flipped in a file of observations; a run that sees it puts it aside and waits: it is sent again."""
        run, own = self.runs["realtime"], self.interrupted("realtime", where)
        path = sorted(own.glob("watch/*.nc"))[-1]
        good = path.read_bytes()
        self._flip(path)
        process, aside = run.fork(own), own / "watch" / "rejected" / path.name
        while process.exitcode is None and not aside.exists():
            process.join(0.02)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGTERM)
            _ended(process)
            path.write_bytes(good)
        self.judge("bit flipped in an observation file", "realtime", own)

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
                tally.failures.append(f"limit {size}: status {status}, {said[:3000]}")
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
            self.say(table({0: tally})[-1])

    def _two(self, run: Run, folder: Path, kill: tuple[int, float] | None = None) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = {"JAXDA_LAUNCH": "torchrun", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [run.start(folder, **launcher, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
        if kill is not None:
            time.sleep(kill[1])
            ranks[kill[0]].kill()
            other = ranks[1 - kill[0]]
            other.terminate()  # as srun --kill-on-bad-exit does: it is told, and ended half a minute later
            try:
                other.wait(30)
            except subprocess.TimeoutExpired:
                other.kill()
        return [rank.wait(600) for rank in ranks]


def table(tallies: Mapping[object, Tally]) -> list[str]:
    """Lines of a Markdown table: how many faults were tried, survived, refused and failed, seconds lost for each."""
    lines = ["| fault | run | tried | same | refused | failed | seconds lost |", "|---|---|---:|---:|---:|---:|---:|"]
    for t in tallies.values():
        counts = (t.tried, t.same, t.refused, len(t.failures))
        cells = (t.fault, t.run, *map(str, counts), f"{t.lost / max(1, t.tried):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines
