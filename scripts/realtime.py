"""Assimilate observations as they arrive: python scripts/realtime.py CONFIG --watch FOLDER [--out DIR] [--cycles N] ...

Watches a folder for observation files (NetCDF, docs/realtime.md), and does one cycle for each analysis time, in order:
screening, analysis, forecast, and DIR/analysis_TIME.nc with both. A cycle whose file has not come in time is a
forecast alone. Files that were used go to FOLDER/used; those that are wrong, too late or there already to
FOLDER/rejected, late or duplicate, with the reason beside them; nothing is deleted. DIR/status.csv has a row for each
cycle, DIR/events.csv for each file that was not used. Members that are not finite are drawn anew, and a filter that
diverges is flagged, and recovers with --faults.recovery. The same command, with --resume or without, goes on with the
next cycle, bit for bit, however the run was ended. --forecast surrogate with --surrogate.folder forecasts by a
surrogate, which learns from the analyses with --filters.NAME.online true.

Exit status: 0; 2 for bad input, said in one line; 3 if too many members of a forecast are not finite; 75 if SIGTERM,
SIGINT or SIGUSR1 stopped it after the cycle that it was at, which a second one does at once (128 + its number).
"""

from __future__ import annotations

import logging
import math
import sys
import time
from pathlib import Path

from jaxda import config as configuration
from jaxda import experiment
from jaxda.output import record
from jaxda.output.progress import bar, status_line
from jaxda.parallel import launch, stopping
from jaxda.parallel.mesh import member_mesh
from jaxda.realtime import folder, loop, system
from jaxda.realtime.inbox import folder_source
from jaxda.settings import Parser, place, seconds


def help_text() -> str:
    """Every field of an experiment, its default and its unit."""
    rows = (f"  --{name}  ({default})\n        {text}" for name, default, text in configuration.describe())
    return "fields of the experiment (default), each with its unit in brackets:\n" + "\n".join(rows)


def line(cycle: loop.Cycle, interval: float, unit: str) -> str:
    """What a cycle did, in a line; `interval` in s, `unit` of the observations."""
    shown = [name for name in loop.STAGES if name != "learning" or cycle.learned]
    stages = " ".join(f"{name} {getattr(cycle, f'{name}_s'):.2f}" for name in shown)
    late = f", {cycle.lateness_s:.0f} s late" if cycle.lateness_s else ""
    innovation = f"innovation {cycle.innovation_rms:.3g} {unit} | " if cycle.used else ""
    innovation += f"chi-square {cycle.chi_square:.3g} | " if cycle.used else ""
    innovation += "DIVERGES | " if cycle.flagged else ""
    replaced = f"{cycle.replaced} members replaced | " if cycle.replaced else ""
    gain = ""
    if cycle.learned and not math.isnan(cycle.learned.gain):
        gain = f"learning {cycle.learned.gain:+.2%}{', taken back' if cycle.learned.rolled_back else ''} | "
    return (
        f"cycle {cycle.cycle} | {cycle.time_h:g} h | {cycle.status}{late} | spread {cycle.spread_a:.3g} K | "
        f"{innovation}{replaced}{gain}{stages} s | queue {cycle.queue} | {interval / cycle.working:.0f} x real time"
    )


def run(config: configuration.ExperimentConfig, given, out: Path, words, stop: stopping.Stop) -> int:
    """Begin or go on; returns the exit status."""
    found = launch.start(config.precision)
    # Orbax advises against waiting for each checkpoint, which is what a cycle does
    logging.getLogger("absl").addFilter(lambda record: "Waiting for previous save" not in str(record.msg))
    experiment.check(config)
    goes_on = folder.prepare(out, config)
    schedule = loop.schedule_of(config, given.every, given.grace)
    with folder.alone_in(given.watch), folder.alone_in(out):
        climate, ensemble = system.start_in(out, config, lambda states: bar("climate", states, "states"))
        parts = system.make_system(config, climate)
        if not goes_on:  # not before: a surrogate that does not fit leaves nothing behind
            folder.begin(out, config)
        record.write(out, "realtime.py", words, config)
        system.keep_start(out, climate, ensemble)
        launch.say(launch.describe(found, config.precision, member_mesh(config.members_of(parts.name))), sys.stderr)
        unit = system.observation_file.UNITS[config.observations.operator]
        with status_line() as show:

            def tell(what):
                done = isinstance(what, loop.Cycle)
                show(line(what, schedule.interval, unit) if done else what, lasts=done)

            host = loop.Host(pause=lambda: time.sleep(given.poll), stopped=stop, show=tell)
            done = loop.run(parts, ensemble, folder_source(given.watch), given.watch, out, schedule, host)
    launch.say(f"{done} of {config.cycles} cycles are done, written to {out}")
    if done < config.cycles:
        stop.check()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("realtime.py", __doc__, epilog=help_text())
    parser.add_argument("config", metavar="CONFIG", help="experiment file, such as configs/realtime.toml")
    parser.add_argument("--watch", type=place, required=True, help="folder that observation files arrive in")
    parser.add_argument("--out", type=place, help="folder, new or of this run (default: runs/NAME OF CONFIG)")
    parser.add_argument("--resume", action="store_true", help="as without it: it goes on with the run in that folder")
    parser.add_argument("--filter", help="which filter, where the configuration has several (default: its only one)")
    every = "from cycle to cycle on the clock [s] (default: interval_hours); 0: due when the one before is done"
    parser.add_argument("--every", type=seconds, help=every)
    parser.add_argument("--grace", type=seconds, default=60.0, help="wait for a file when its cycle is due [s]")
    parser.add_argument("--poll", type=seconds, default=0.2, help="between two looks at the folder [s]")
    try:
        given, rest = parser.parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest))
        config = system.check(config, given.filter)
        out = given.out or Path("runs") / Path(given.config).stem
        if not given.watch.is_dir() or given.watch.resolve() == out.resolve():
            raise ValueError(f"--watch {given.watch}: not a folder of its own that is there; make it, or give another")
        with stopping.watched() as stop:
            return run(config, given, out, arguments, stop)
    except stopping.Stopped as stopped:
        print(f"realtime.py: {stopped}", file=sys.stderr)
        return stopping.REQUEUE
    except FloatingPointError as error:
        print(f"realtime.py: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        return launch.refuse("realtime.py", error)


if __name__ == "__main__":
    sys.exit(main())
