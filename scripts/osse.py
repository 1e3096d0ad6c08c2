"""Run one twin experiment: python scripts/osse.py CONFIG [--out DIR] [--resume] [--cycles N] [--any.field value ...].

Reads a TOML file, makes or reads the nature run, runs every filter of the file on the same truth and observations,
writes scores.csv, scores.json, analysis.nc, diagnostics.nc, figures/, the resolved config.toml and checksums of these
(SHA256SUMS) to DIR, and prints the score table.
Started as several processes by srun, mpirun or torchrun it is one run on the devices of all (JAXDA_LAUNCH=single: as
many runs); members have to divide over the processes. With --resume, or where Slurm has requeued its job, the same
command goes on where it was interrupted and gives what an unbroken run gives.

Members that are not finite are drawn anew from the others; a filter of which too many are (faults.replaced_limit) ends
as "non-finite" with its checkpoint from before, and the other filters go on.

Exit status: 0; 2 for bad input, and then nothing is written; 3 if a filter diverged or went non-finite; 75 if SIGTERM,
SIGINT or SIGUSR1 stopped it, which a second one does at once (128 + its number).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from jaxda import config as configuration
from jaxda import experiment, figures, resuming
from jaxda.output import analysis_store, record, report
from jaxda.output.atomic import replacing
from jaxda.output.progress import bar
from jaxda.parallel import launch, stopping
from jaxda.parallel.mesh import member_mesh
from jaxda.settings import Parser, place


def help_text() -> str:
    """Every field of an experiment, its default and its unit."""
    rows = (f"  --{name}  ({default})\n        {text}" for name, default, text in configuration.describe())
    return "fields of the experiment (default), each with its unit in brackets:\n" + "\n".join(rows)


def run(config: configuration.ExperimentConfig, out: Path, found: launch.Launch, words, stop: stopping.Stop) -> int:
    """Run the experiment and write its folder, in the first process; returns the exit status."""
    states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
    with bar("nature run", states, "states") as advance:
        world = experiment.make_world(config, lambda done: (advance(done), stop.check()))
    analyses = {name: experiment.make_filter(config, name, world.operator, world.climate) for name in config.filters}
    forecasters = {name: experiment.make_forecaster(config, world, name) for name in config.filters}
    launch.say(launch.describe(found, config.precision, member_mesh(config.members)), file=sys.stderr)

    writes = launch.is_first()
    if writes:
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / "config.toml") as hidden:  # without a whole one no run goes on
            configuration.write(hidden, config)
        record.write(out, "osse.py", words, config)
    hours = config.interval_hours * np.arange(config.cycles)
    names = list(config.filters)
    records, said = {}, set()
    with bar("cycles", config.cycles * len(names), "cycles") as advance:
        for name, analysis in analyses.items():
            with resuming.Progress(config, out, name) as progress:

                def keep(chunk, name=name, progress=progress):
                    advance(len(chunk.scores.rmse_a), name, report.last_scores(chunk.scores, config.unit))
                    progress.save(chunk)
                    for kind, notice in report.notices(name, chunk, config.faults).items():
                        if (name, kind) not in said:
                            launch.say(f"osse.py: {notice}", file=sys.stderr)
                        said.add((name, kind))
                    stop.check()

                records[name] = experiment.run_filter(
                    config, world, name, analysis, forecasters.pop(name), keep, progress.load
                )
            if writes:
                report.write_scores(out, records, config.interval_hours)
    if writes:
        report.write_json(out / "scores.json", records, dataclasses.asdict(config))
        resuming.finish(config, out, hours, world)
        if config.output.figures:
            figures.draw(out)
        report.print_lines([report.score_table(config.title or out.name, records, config.unit), f"written to {out}"])
    return 0 if all(record.status == "ok" for record in records.values()) else 3


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("osse.py", __doc__, epilog=help_text())
    parser.add_argument("config", metavar="CONFIG", help="experiment file, such as configs/quickstart.toml")
    parser.add_argument("--out", type=place, help="folder to write, new or empty (default: runs/NAME OF CONFIG)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder, if there is one")
    try:
        given, rest = parser.parse_known_args(arguments)
        config = configuration.read(given.config, configuration.parse_overrides(rest))
        if config.output.format == "zarr":
            analysis_store.require_zarr()
        out = given.out or Path("runs") / Path(given.config).stem
        if (given.resume or stopping.requeued()) and resuming.begun(out):
            resuming.require_same(config, out)
        else:
            report.new_folder(out)
        with stopping.watched() as stop:
            return run(config, out, launch.start(config.precision, config), arguments, stop)
    except stopping.Stopped as stopped:
        launch.say(f"osse.py: {stopped}", sys.stderr)
        return stopping.REQUEUE
    except (ValueError, OSError) as error:
        return launch.refuse("osse.py", error)


if __name__ == "__main__":
    sys.exit(main())
