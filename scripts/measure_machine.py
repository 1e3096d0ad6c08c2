"""Measure this machine for scripts/scale_plan.py: python scripts/measure_machine.py --out FILE.toml.

Starts 1, 2, 4, ... processes of one device each and times, in all of them at once, matrix products, a pass over memory
and all-reduces from 4 KB to 64 MB. What it writes is read by `scale_plan.py --machine FILE.toml`.

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from jaxda import config as configuration
from jaxda.benchmarks import machine
from jaxda.output import report
from jaxda.parallel import launch
from jaxda.settings import Parser, at_least, place


def reading_rate(folder: Path, size: int = 2**26) -> float:
    """Bytes a second at which a file that was just written is read: the system's cache, not a disc."""
    path = folder / ".measure_machine"
    try:
        np.ones(size, np.uint8).tofile(path)
        began = time.perf_counter()
        np.fromfile(path, np.uint8)
        return size / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("measure_machine.py", __doc__)
    parser.add_argument("--processes", type=at_least(2), default=4, help="at most [1]")
    parser.add_argument("--repeats", type=at_least(1), default=7, help="of each measurement, whose median counts [1]")
    parser.add_argument("--title", default="measured by scripts/measure_machine.py", help="name of the machine")
    parser.add_argument("--out", type=place, help="file to write")
    parser.add_argument("--worker", action="store_true", help="measure in this process, as one of several")
    try:
        given = parser.parse_args(arguments)
        if given.worker:
            launch.start("float32", machine.MeasuringConfig(repeats=given.repeats))
            print(machine.as_text(machine.measure(given.repeats)), flush=True)
            return 0
        if given.out is None:
            raise ValueError("--out: is missing; give a file in a folder that exists")
        report.new_file("--out", given.out)
        counts = [2**power for power in range(given.processes.bit_length()) if 2**power <= given.processes]
        command = [str(Path(__file__).resolve()), "--worker", "--repeats", str(given.repeats)]
        found = [machine.from_text(machine.together(command, count)) for count in counts]
        memory = float(_memory()) / counts[-1]
        own = machine.as_machine(found, memory, reading_rate(given.out.absolute().parent), given.title)
        configuration.write(given.out, own)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"measure_machine.py: {error}", file=sys.stderr)
        return 2
    table = Table("processes", "products [GFLOP/s]", "memory [GB/s]", "all-reduce", "ms", "bus bandwidth [GB/s]")
    for one in found:
        row = [str(one.processes), f"{one.rate / 1e9:.3g}", f"{one.memory_bandwidth / 1e9:.3g}"]
        for size, seconds in one.all_reduce.items() or [(0.0, 0.0)]:
            bus = machine.factor("all-reduce", one.processes) * size / seconds / 1e9 if seconds else 0.0
            shown = (f"{size / 1e6:.3g} MB", f"{1e3 * seconds:.3g}", f"{bus:.3g}") if seconds else ("-", "-", "-")
            table.add_row(*row, *shown)
            row = ["", "", ""]
    report.print_lines([table, f"written to {given.out}"])
    return 0


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    sys.exit(main())
