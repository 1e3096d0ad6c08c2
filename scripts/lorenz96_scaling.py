"""The Lorenz-96 scaling problem: python scripts/lorenz96_scaling.py CONFIG [--json FILE] [--d 1000 --field value ...].

Reads a TOML file (configs/lorenz96_1e6.toml, 1e7, 1e8) and runs the cycles of jaxda.lorenz96_scaling: pre-predictions,
forecast, update (Yin et al. 2024, SC24, Sec. 5). Alone it needs no MPI, and all devices share the line; by `mpirun -n 4
python -m mpi4py scripts/lorenz96_scaling.py CONFIG` each rank has members of its own, and a device, or those that
JAX_NUM_CPU_DEVICES or JAX_LOCAL_DEVICE_IDS say. Members never meet but in the statistics, the RMSE of the mean over all
ranks and the spread, which go through jaxda.parallel.collectives. Keys fold in a member's number in the whole ensemble,
noise is a function of a point's number: the figures are the same on any number of ranks and devices. `-m mpi4py` ends
all ranks if one fails.

Rank 0 prints a line a cycle, then a table. Times are medians without the first cycle, which compiles; those of the
statistics hold the wait for the slowest rank. Memory is that of the compiled cycle, in states of a member (4 d bytes);
with --cycles 0 it is all that is said, and nothing is run.

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from rich.table import Table

from jaxda import config as configuration
from jaxda import lorenz96_scaling
from jaxda.lorenz96_scaling import ScalingConfig
from jaxda.output import report
from jaxda.parallel import collectives, launch, ranks
from jaxda.parallel.ring import Ring
from jaxda.settings import Parser, place


def help_text() -> str:
    """Every field of the problem, its default and its unit."""
    rows = (f"  --{name}  ({default})\n        {text}" for name, default, text in configuration.describe(ScalingConfig))
    return "fields of the problem (default), each with its unit in brackets:\n" + "\n".join(rows)


def run(config: ScalingConfig, over: ranks.Ranks, ring: Ring) -> dict[str, list]:
    """Scores and seconds of each cycle, states in memory; rank 0 prints them."""
    numbers = int(collectives.first_member(over, config.members)) + jnp.arange(config.members)
    cycle = lorenz96_scaling.make_cycle(config, ring)
    score = ranks.jitted(over, lambda members, truth: collectives.scores(over, members, truth)[1:])
    found = {"rmse": [], "spread": [], "seconds": [], "seconds_statistics": []}
    states = lorenz96_scaling.states_in_memory(config, ring, cycle)
    if over.rank() == 0:
        print(f"{ring.mesh.size} devices, windows of {ring.window}, memory of a cycle: {states:.1f} states", flush=True)
    if config.cycles:
        truth, members = jax.block_until_ready(lorenz96_scaling.make_start(config, ring)(numbers))
    for number in range(config.cycles):
        began = time.perf_counter()
        truth, members = jax.block_until_ready(cycle(number, numbers, truth, members))
        analysed = time.perf_counter()
        rmse, spread = map(float, jax.block_until_ready(score(members, truth)))
        ended = time.perf_counter()
        row = rmse, spread, ended - began, ended - analysed
        for column, value in zip(found.values(), row, strict=True):
            column.append(None if math.isnan(value) else value)  # the spread of one member; JSON has no NaN
        if over.rank() == 0:
            words = "cycle {}: RMSE {:.4f}, spread {:.4f}, {:.3f} s, statistics {:.3f} s"
            print(words.format(number, *row), flush=True)
    return found | {"states_in_memory": states}


def table_of(config: ScalingConfig, size: int, found: dict[str, list]) -> Table:
    """One row: means over all cycles and their last third, medians of the times."""
    device = report.versions()["device"]
    table = Table(title=f"Lorenz-96, d = {config.d}, {config.cycles} cycles, {device}")
    for column in ("ranks", "members", "RMSE", "RMSE, last third", "spread", "s/cycle", "statistics [s/cycle]"):
        table.add_column(column, justify="right")
    mean = lambda values: math.nan if None in values else statistics.fmean(values)
    last = -math.ceil(config.cycles / 3)
    middle = lambda name: statistics.median(found[name][1:] or found[name])
    figures = mean(found["rmse"]), mean(found["rmse"][last:]), mean(found["spread"][last:])
    times = middle("seconds"), middle("seconds_statistics")
    table.add_row(str(size), str(size * config.members), *(f"{x:.4f}" for x in (*figures, *times)))
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("lorenz96_scaling.py", __doc__, epilog=help_text())
    parser.add_argument("config", metavar="CONFIG", help="problem file, such as configs/lorenz96_1e6.toml")
    parser.add_argument("--json", type=place, help="file to write scores and times to")
    try:
        given, rest = parser.parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest), ScalingConfig)
        report.new_file("--json", given.json)
        found = launch.start(alone=False)  # they meet over MPI
        ring = lorenz96_scaling.make_ring(config)
    except (ValueError, OSError) as error:
        launch.say(f"lorenz96_scaling.py: {error}", sys.stderr)  # all processes have the same settings
        return 2
    try:
        over = ranks.choose(config.mpi)
    except ValueError as error:
        where = f"rank {found.rank} of {found.size}: " if found.size > 1 else ""
        print(f"lorenz96_scaling.py: {where}{error}", file=sys.stderr)
        return 2

    found = run(config, over, ring)
    if over.rank() == 0 and config.cycles:
        report.print_lines([table_of(config, over.size(), found)])
    if over.rank() == 0 and given.json:
        content = {"ranks": over.size(), "settings": dataclasses.asdict(config), **found, **report.versions()}
        given.json.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
