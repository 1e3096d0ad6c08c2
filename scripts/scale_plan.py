"""What a training or an analysis costs on devices that are not here: python scripts/scale_plan.py CONFIG... [...].

Compiles the real training step (of files such as configs/vit_256.toml) or the real analyses (of experiments) for
--devices fake devices, without allocating their arrays, and says from the compiled program: memory of a device by kind,
what is communicated, matrix products. Then how long a step would take on a machine, the share of communication,
the efficiency against --base devices, and the size of messages that is best (docs/scaling.md derives the model).

    --strategies all --figures DIR      every strategy; figures
    --samples 1                         of every batch, or members, on each device
    --values model.dim=100000,1000000   a plan for each value of a field
    --machine FILE.toml                 such as scripts/measure_machine.py writes
    --again FILE.json                   tables and figures of what --json wrote, for another machine

Exit status: 0; 2 for bad input, said in one line; 3 if no strategy of a training fits the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path

import jax

from jaxda import config as configuration
from jaxda.output import report
from jaxda.parallel import launch, sharding
from jaxda.parallel.machine import Machine
from jaxda.parallel.scaling import OVERLAPS
from jaxda.planning import programs, stored, tables
from jaxda.planning.programs import Plan
from jaxda.settings import Parser, at_least, place
from jaxda.surrogate import SurrogateConfig

MACHINE = Path(__file__).parents[1] / "configs" / "machines" / "frontier.toml"
#: what --strategies all means; +overlap reduces gradients within the backward loop
STRATEGIES = ("ddp", "ddp+overlap", "zero1", "zero2", "zero3", "hybrid_shard", "hybrid_shard+overlap")


def parser() -> Parser:
    """The command line."""
    own = Parser("scale_plan.py", __doc__)
    own.add_argument("configs", nargs="*", metavar="CONFIG", help="files of trainings or of experiments")
    own.add_argument("--devices", type=at_least(1), default=1024, help="that the programs are for [1]")
    own.add_argument("--base", type=at_least(1), default=8, help="devices that efficiencies are against [1]")
    own.add_argument(
        "--machine", default=MACHINE, metavar="FILE.toml", help="machine (default: configs/machines/frontier.toml)"
    )
    own.add_argument(
        "--strategies", default="", help=f"with commas between, or all: {', '.join(STRATEGIES)} (default: the file's)"
    )
    own.add_argument("--filters", default="", help="of an experiment, with commas between (default: all but baselines)")
    own.add_argument("--samples", type=at_least(1), default=1, help="on each device [1]")
    own.add_argument("--overlap", choices=OVERLAPS, default="pipelined", help="what is assumed for the choice")
    own.add_argument("--values", metavar="FIELD=A,B,...", help="one plan for each value")
    own.add_argument("--figures", type=place, metavar="DIR", help="folder for figures")
    own.add_argument("--json", type=place, help="file to write")
    own.add_argument("--again", type=place, metavar="FILE.json", help="plans of an earlier --json; compiles nothing")
    return own


def devices_of(given: argparse.Namespace) -> None:
    """Make the fake devices.

    Raises:
        ValueError: JAX has other devices already.
    """
    flags = [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={given.devices}"]
    flags.append("--xla_backend_optimization_level=0")  # of the machine code, which nobody runs: half of the time
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    jax.config.update("jax_platforms", "cpu")
    launch.start("float32")
    if jax.device_count() != given.devices:
        raise ValueError(f"--devices {given.devices}: this process has {jax.device_count()}; start another")


def settings_of(path: str, overrides: dict):
    """Settings of a training, or of an experiment."""
    try:
        is_training = "vit" in tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `read` says what is wrong
        is_training = False
    return configuration.read(path, overrides, SurrogateConfig if is_training else configuration.ExperimentConfig)


def variants(given: argparse.Namespace, rest: list[str]) -> list[tuple[str, object]]:
    """Names and settings of what is planned.

    Raises:
        ValueError: words that cannot be.
    """
    overrides = configuration.parse_overrides(rest)
    if given.values is None:
        return [(Path(path).stem, settings_of(path, overrides)) for path in given.configs]
    field, equals, words = given.values.partition("=")
    if not equals or not words:
        raise ValueError(f"--values {given.values}: give FIELD=A,B,...")
    values = [configuration.parse_overrides([f"--{field}", word])[field] for word in words.split(",")]
    return [
        (f"{Path(path).stem}, {field} = {value:,}" if isinstance(value, int) else f"{Path(path).stem}, {value}", own)
        for path in given.configs
        for value in values
        for own in [settings_of(path, overrides | {field: value})]
    ]


def plans_of(config, given: argparse.Namespace, machine: Machine) -> list[Plan]:
    """A plan for each strategy or filter, and of the best strategy with the messages that are best for it.

    Raises:
        ValueError: names that are none, settings that do not fit.
    """
    if not isinstance(config, SurrogateConfig):
        real = [name for name, own in config.filters.items() if own.kind in ("local-score", "letkf", "ensf")]
        asked = given.filters.split(",") if given.filters else real
        for name in asked:
            if name not in config.filters:
                raise ValueError(f"--filters {name}: is none of {', '.join(config.filters)}; use those")
        return [programs.of_analysis(config, name, given.samples) for name in asked]
    default = f"{config.parallel.strategy}{'+overlap' * config.parallel.overlap}"
    asked = given.strategies.split(",") if given.strategies else [default]
    asked = list(STRATEGIES) if asked == ["all"] else asked
    found = []
    for name in asked:
        if name.removesuffix("+overlap") not in sharding.STAGES:
            raise ValueError(f"--strategies {name}: is none of {', '.join(STRATEGIES)}; use those")
        found.append(programs.of_training(programs.training(config, name, given.samples, machine.node)))
    best, choice = tables.best_of(found, machine, given.overlap)
    together = tables.group_of(best, choice)
    if together > 1:
        group, name = together * config.parallel.group, best.name.split(",")[0]
        found.append(programs.of_training(programs.training(config, name, given.samples, machine.node, group)))
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given, rest = parser().parse_known_args(arguments)
        machine = configuration.read(given.machine, {}, Machine)
        wanted = variants(given, rest)
        report.new_file("--json", given.json)
        if given.figures and not given.figures.is_dir():
            report.new_file("--figures", given.figures)
            if given.figures.exists():
                raise ValueError(f"--figures {given.figures}: is a file; give a folder")
        if not wanted and not given.again:
            raise ValueError("CONFIG: is missing; give files such as configs/vit_256.toml, or --again FILE.json")
        if wanted and given.again:
            raise ValueError(f"--again {given.again}: has its plans already; leave {given.configs[0]} out")
        found: dict[str, list[Plan]] = stored.read(given.again) if given.again else {}
        if wanted:
            devices_of(given)
        for name, config in wanted or [(name, None) for name in found]:
            found[name] = plans_of(config, given, machine) if config else found[name]
            report.print_lines(tables.of_plans(name, found[name], machine, given.base, given.overlap))
            if given.json:  # after each, so that a long plan that is stopped leaves something
                content = tables.content(found, machine, given.base)
                content |= {"settings": vars(given), "versions": report.versions()}
                given.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"scale_plan.py: {error}", file=sys.stderr)
        return 2
    if given.figures:
        given.figures.mkdir(exist_ok=True)
        tables.figures(given.figures, found, machine, given.base, given.overlap)
    trainings = [plans for plans in found.values() if plans[0].side]
    fits = all(any(one.cost.memory.total <= machine.memory for one in plans) for plans in trainings)
    return 0 if fits else 3


if __name__ == "__main__":
    sys.exit(main())
