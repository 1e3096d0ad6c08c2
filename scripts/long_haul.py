"""Run thousands of cycles and see what grows, what is lost: python scripts/long_haul.py FORM CONFIG --out DIR [...].

FORM is osse or realtime. CONFIG is an experiment, such as configs/long_haul.toml, whose fields may be given as flags.
The script of that name runs in this process, into DIR/run, while a thread writes memory.csv to DIR: a line every so
many seconds with the cycles done, the resident memory, the arrays that JAX holds on devices, and the files that are
open.

In real time scripts/feed.py feeds it from a process of its own, a few files ahead; a part of the cycles, --faulty, is
disturbed in every way that it knows. Afterwards every file that was sent and every cycle is looked for: a good file
has been used once, a bad one put aside with its reason, and each cycle has a row and a product.

Exit status: 0; 1 if memory grew by more than 1 % after the first tenth of the cycles, or anything was lost or doubled;
2 for bad input, said in one line; that of the run if it is not 0.
"""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jaxda import config as configuration
from jaxda.benchmarks import memory
from jaxda.output import report
from jaxda.parallel import launch
from jaxda.realtime import audit, feed, system
from jaxda.settings import Parser, place, seconds

#: growth that a run may show, and cycles from which on samples tell it from what comes and goes
MOST, ENOUGH = 0.01, 1000
#: files that wait for a real-time run at most, and how long it waits for one that does not come [s]
AHEAD, GRACE = 20, 2.0


def script(name: str) -> Callable[[list[str]], int]:
    """The command line of another script, as a function."""
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["main"]


def done_in(run: Path) -> int:
    """Cycles that a run's newest checkpoint is after."""
    own = run / "checkpoints"
    names = _names(own)
    names += [name for sub in names if not sub.isdecimal() for name in _names(own / sub)]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing where it is a file, or the run has just removed or renamed it."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def in_real_time(config: configuration.ExperimentConfig, given, rest: list[str]) -> tuple[int, list[str]]:
    """Feed and run; returns the exit status of the run and what was lost or doubled."""
    watch, run = given.out / "incoming", given.out / "run"
    deliveries = feed.plan(config.cycles, feed.DISTURBANCES, config.seed, given.faulty / len(feed.DISTURBANCES))
    words = ["--to", watch, "--ahead", AHEAD, "--disturb", ",".join(feed.DISTURBANCES)]
    words += ["--share", given.faulty / len(feed.DISTURBANCES)]
    line = [sys.executable, Path(__file__).with_name("feed.py"), given.config, *words, *rest]
    feeding = subprocess.Popen(list(map(str, line)), stdout=subprocess.DEVNULL)
    try:
        while not list(watch.glob("*.nc")) and feeding.poll() is None:
            time.sleep(0.1)
        if feeding.poll():  # it has said why
            return feeding.returncode, []
        own = ["--watch", watch, "--out", run, "--every", 0, "--grace", GRACE, "--poll", 0.02]
        status = script("realtime")([str(word) for word in [given.config, *own, *rest]])
    finally:
        feeding.kill()
        feeding.wait()
    found = audit.audit(config, deliveries, watch, run)
    launch.say(f"{len(deliveries)} files: {', '.join(f'{count} {name}' for name, count in found.places.items())}")
    return status, found.complaints


def run(config: configuration.ExperimentConfig, given, rest: list[str]) -> int:
    """The run, watched; returns the exit status."""
    began, complaints = time.monotonic(), []
    with memory.watching(given.out / "memory.csv", lambda: done_in(given.out / "run"), given.sample) as samples:
        if given.form == "realtime":
            status, complaints = in_real_time(config, given, rest)
        else:
            status = script("osse")([given.config, "--out", str(given.out / "run"), *rest])
    took = time.monotonic() - began
    if status == 2:
        return status
    launch.say(f"{config.cycles} cycles in {took:.0f} s, {1000 * took / config.cycles:.0f} ms a cycle, start included")
    for name, unit in (("host_mib", "MiB resident"), ("array_mib", "MiB in arrays"), ("arrays", "arrays")):
        grown = memory.growth(samples, config.cycles, name)
        last = getattr(samples[-1], name) if samples else float("nan")
        launch.say(f"{last:.6g} {unit} at the end, growth {grown:+.2%} in {len(samples)} samples")
        if not grown <= MOST and config.cycles >= ENOUGH:  # nor where it is not a number: too few samples
            complaints.append(f"{name} grew by {grown:.1%}, over {MOST:.0%}")
    for complaint in complaints:
        launch.say(complaint)
    return status or (1 if complaints else 0)


def part(text: str) -> float:
    """For argparse: a part of the cycles."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not a part of the cycles from 0 to 0.5")
    return value


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("long_haul.py", __doc__)
    parser.add_argument("form", choices=("osse", "realtime"), metavar="FORM", help="osse or realtime")
    parser.add_argument("config", metavar="CONFIG", help="experiment file, such as configs/long_haul.toml")
    parser.add_argument("--out", type=place, required=True, help="folder to write, new or empty")
    parser.add_argument("--faulty", type=part, default=0.01, help="part of the cycles that is disturbed [1]")
    parser.add_argument("--sample", type=seconds, default=2.0, help="between two samples of memory [s]")
    try:
        given, rest = parser.parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest))
        if len(config.filters) > 1:
            raise ValueError(f"{given.config}: has {len(config.filters)} filters; give one with a single filter")
        if given.form == "realtime":
            config = system.check(config, None)
            feed.plan(config.cycles, feed.DISTURBANCES, config.seed, given.faulty / len(feed.DISTURBANCES))
        report.new_folder(given.out)
        return run(config, given, rest)
    except (ValueError, OSError) as error:
        return launch.refuse("long_haul.py", error)


if __name__ == "__main__":
    sys.exit(main())
