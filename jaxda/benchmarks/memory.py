"""What a long run holds: samples of its memory while it goes, and whether they grow."""

from __future__ import annotations

import csv
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

MIB = 2.0**20
#: parts of the cycles that growth is between; before are programs, caches and the first writes
FIRST, LAST = (0.1, 0.3), (0.8, 1.0)


class Sample(NamedTuple):
    """Memory after some cycles.

    Attributes:
        seconds: since the start.
        cycles: done by then.
        host_mib: resident memory of the process [MiB]; on CPUs arrays on devices are in it.
        arrays, array_mib: that JAX holds on devices of this process [1, MiB].
        files: that are open [1].
    """

    seconds: float
    cycles: int
    host_mib: float
    arrays: int
    array_mib: float
    files: int


def host_bytes() -> int:
    """Resident memory of this process now; where the system does not say that, its largest so far [B]."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sample(began: float, cycles: int) -> Sample:
    """One of now."""
    live = jax.live_arrays()
    held = sum(shard.data.nbytes for array in live if not array.is_deleted() for shard in array.addressable_shards)
    folder = Path("/proc/self/fd")
    files = len(list(folder.iterdir())) if folder.is_dir() else -1
    return Sample(time.monotonic() - began, cycles, host_bytes() / MIB, len(live), held / MIB, files)


@contextmanager
def watching(path: Path, done: Callable[[], int], every: float) -> Iterator[list[Sample]]:
    """Take a sample every so many seconds in a thread, once a cycle is done, and add each to a CSV file at `path`."""
    samples: list[Sample] = []
    ended = threading.Event()

    def watch():
        began = time.monotonic()
        while not ended.wait(every):
            cycles = done()
            if cycles:  # before that nobody may have chosen the devices
                samples.append(sample(began, cycles))
                with path.open("a", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    if len(samples) == 1:
                        writer.writerow(Sample._fields)
                    writer.writerow(f"{value:.6g}" for value in samples[-1])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def growth(samples: Sequence[Sample], cycles: int, name: str) -> float:
    """By what part a quantity grew from the FIRST part of the cycles to the LAST; NaN without samples.

    Of each part the median counts, of JAX's arrays the least: how many a sample finds beside those that stay depends on
    what the cycle is at. When all cycles are done files are joined and figures drawn, which takes memory once: those
    samples do not count.
    """
    going = [one for one in samples if one.cycles < cycles]
    of = lambda least, most: [getattr(one, name) for one in going if least * cycles <= one.cycles <= most * cycles]
    first, last = of(*FIRST), of(*LAST)
    typical = min if name.startswith("array") else statistics.median
    return typical(last) / typical(first) - 1.0 if first and last else float("nan")
