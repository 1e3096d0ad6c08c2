"""Put the time model to the test here: python scripts/check_plan.py CONFIG --machine FILE.toml [--any.field value ...].

Runs the training step of a file such as configs/vit_64.toml in 1, 2, 4, ... processes of one device each, with as many
samples on each, and prints the measured time beside the model's (docs/scaling.md). FILE.toml is what
scripts/measure_machine.py wrote on the same machine. The first number of processes is not a prediction: it says which
part of the rate of plain products a step reaches.

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from jaxda import config as configuration
from jaxda.benchmarks import machine as measuring
from jaxda.output import report
from jaxda.parallel import launch, sharding
from jaxda.parallel.machine import Machine
from jaxda.planning import measured
from jaxda.settings import Parser, at_least, place
from jaxda.surrogate import SurrogateConfig


def parser() -> Parser:
    """The command line."""
    own = Parser("check_plan.py", __doc__)
    own.add_argument("config", metavar="CONFIG", help="file of a training")
    own.add_argument("--machine", type=place, help="file of scripts/measure_machine.py")
    own.add_argument("--strategies", default="ddp,zero3", help="with commas between")
    own.add_argument("--processes", type=at_least(1), default=4, help="at most [1]")
    own.add_argument("--samples", type=at_least(1), default=1, help="on each device [1]")
    own.add_argument("--repeats", type=at_least(1), default=5, help="timed steps [1]")
    own.add_argument("--worker", action="store_true", help="run in this process, as one of several")
    return own


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given, rest = parser().parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest), SurrogateConfig)
        if given.worker:
            launch.start("float32", config)
            found = measured.time_training(config, given.strategies, given.samples, given.repeats)
            print(measured.as_text(found), flush=True)
            return 0
        if given.machine is None:
            raise ValueError("--machine: is missing; give a file of scripts/measure_machine.py")
        strategies = given.strategies.split(",")
        for name in strategies:
            if name not in sharding.STAGES:
                raise ValueError(f"--strategies {name}: is none of {', '.join(sharding.STAGES)}; use those")
        machine = configuration.read(given.machine, {}, Machine)
        counts = [2**power for power in range(given.processes.bit_length()) if 2**power <= given.processes]
        table = Table("strategy", "processes", "measured [s]", "model [s]", "model / measured", "communication [s]")
        for name in strategies:
            own = ["--worker", "--strategies", name, "--samples", str(given.samples), "--repeats", str(given.repeats)]
            command = [str(Path(__file__).resolve()), str(given.config), *own, *rest]
            found = [measured.from_text(measuring.together(command, count)) for count in counts]
            for count, one, model in zip(counts, found, measured.expected(found, machine), strict=True):
                ratio = f"{model.total / one.seconds:.2f}" if count > 1 else "1, by definition"
                sent = f"{model.communication:.3g}"
                table.add_row(name, str(count), f"{one.seconds:.3g}", f"{model.total:.3g}", ratio, sent)
        report.print_lines([table])
        return 0
    except (ValueError, RuntimeError, OSError) as error:
        print(f"check_plan.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
