"""Simulate what arrives: python scripts/feed.py CONFIG --to FOLDER [--every SECONDS] [--disturb KIND,KIND,...].

Makes (or reads) the nature run of an experiment, observes it as scripts/osse.py would, and writes a file of
observations for each cycle to FOLDER, which scripts/realtime.py watches: at once, one every so many seconds, or as
they are used, with no more than --ahead of them waiting. --disturb lets things go wrong at random cycles, a --share of
them for each kind, the same for the same seed:

    late       comes after the file that follows it
    duplicate  comes again, under another name, after the file that follows it
    missing    does not come
    corrupt    is cut off in the middle
    outside    has an observation outside of the domain
    window     has a time between two analyses
    nan        has a value that is not a number
    grid       has observations between the points of the grid
    empty      has no bytes

The truth goes to FOLDER_truth.nc; `--score RUN` compares the products of a run with it, and feeds nothing.

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from jaxda import config as configuration
from jaxda import experiment
from jaxda.output import report
from jaxda.output.progress import bar
from jaxda.parallel import launch
from jaxda.realtime import feed, system
from jaxda.settings import Parser, at_least, place, seconds


def send(config: configuration.ExperimentConfig, given, deliveries: list[feed.Delivery], truth: Path) -> None:
    """Write the truth, and the files in their order and at their pace."""
    states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
    with bar("nature run", states, "states") as advance:
        world = experiment.make_world(config, advance)
    given.to.mkdir(parents=True, exist_ok=True)
    feed.write_truth(truth, config, world)
    observe = feed.make_observations(config, world)
    began = time.monotonic()
    with bar("observations", len(deliveries), "files") as advance:
        for delivery in deliveries:
            found = observe(delivery.cycle)
            time.sleep(max(0.0, began + given.every * delivery.slot - time.monotonic()))
            while given.ahead and len(list(given.to.glob("*.nc"))) >= given.ahead:
                time.sleep(0.05)
            feed.deliver(given.to, config, delivery, found)
            advance(1)
    for delivery in deliveries:
        if delivery.kind:
            launch.say(f"cycle {delivery.cycle}: {delivery.kind}, {feed.DISTURBANCES[delivery.kind]}")
    sent = {delivery.cycle for delivery in deliveries}
    for cycle in sorted(set(range(config.cycles)) - sent):
        launch.say(f"cycle {cycle}: missing, {feed.DISTURBANCES['missing']}")
    launch.say(f"{len(deliveries)} files to {given.to}, the truth to {truth}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("feed.py", __doc__)
    parser.add_argument("config", metavar="CONFIG", help="experiment file, such as configs/realtime.toml")
    parser.add_argument("--to", metavar="FOLDER", type=place, required=True, help="where the files go")
    parser.add_argument("--every", type=seconds, default=0.0, help="between two cycles' files [s]; 0: all at once")
    parser.add_argument("--ahead", metavar="FILES", type=at_least(1), help="files that wait in FOLDER at most [1]")
    parser.add_argument("--share", type=seconds, default=0.1, help="of the cycles, for each kind of --disturb [1]")
    parser.add_argument("--disturb", metavar="KINDS", default="", help="what goes wrong, separated by commas")
    parser.add_argument("--score", metavar="RUN", type=place, help="folder of scripts/realtime.py: print its errors")
    try:
        given, rest = parser.parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest))
        folder = given.to.resolve()  # `..` has no name of its own
        truth = folder.with_name(f"{folder.name}_truth.nc")
        if given.score:
            report.print_lines([report.realtime_table(feed.scores(given.score, truth))])
            return 0
        system.require_sqg(config)
        report.may_write(given.to)
        launch.start(config.precision)
        experiment.require_memory(config)  # asks JAX for sizes, and so for its devices
        deliveries = feed.plan(config.cycles, filter(None, given.disturb.split(",")), config.seed, given.share)
        there = [path for path in (truth, *given.to.glob("*.nc")) if path.exists()]
        if there:
            raise ValueError(f"{there[0]}: exists already; give another --to, or move it away")
        send(config, given, deliveries, truth)
        return 0
    except (ValueError, OSError) as error:
        return launch.refuse("feed.py", error)


if __name__ == "__main__":
    sys.exit(main())
