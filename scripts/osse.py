"""Run one twin experiment: python scripts/osse.py CONFIG [--out DIR] [--resume] [--cycles N] [--any.field value ...].

Reads a TOML file, makes or reads the nature run, runs every filter of the file on the same truth and observations,
writes scores.csv, scores.json, analysis.nc, figures/ and the resolved config.toml to DIR, and prints the score table.
Started as several processes by srun, mpirun or torchrun it is one run on the devices of all (JAXDA_LAUNCH=single: as
many runs); members have to divide over the processes. With --resume the same command goes on where it was interrupted
and gives what an unbroken run gives.

Members that are not finite are drawn anew from the others; a filter of which too many are (faults.replaced_limit) ends
as "non-finite" with its checkpoint from before, and the other filters go on.

Exit status: 0; 2 for bad input, and then nothing is written; 3 if a filter diverged or went non-finite.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np

from jaxda import config as configuration
from jaxda import experiment, resuming
from jaxda.output import analysis_file, plots, record, report
from jaxda.output.atomic import replacing
from jaxda.output.progress import bar
from jaxda.parallel import launch
from jaxda.parallel.mesh import member_mesh
from jaxda.settings import Parser, place


def help_text() -> str:
    """Every field of an experiment, its default and its unit."""
    rows = (f"  --{name}  ({default})\n        {text}" for name, default, text in configuration.describe())
    return "fields of the experiment (default), each with its unit in brackets:\n" + "\n".join(rows)


def run(config: configuration.ExperimentConfig, out: Path, found: launch.Launch, words: list[str] | None) -> int:
    """Run the experiment and write its folder, in the first process; returns the exit status."""
    states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
    with bar("nature run", states, "states") as advance:
        world = experiment.make_world(config, advance)
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
    members = max(map(config.members_of, names)) if config.output.members else 0
    with contextlib.ExitStack() as stack:
        file = None
        if config.output.fields and writes:
            file = analysis_file.AnalysisFile(
                out / "analysis.nc", config.model, names, hours, members=members, resume=True
            )
            stack.enter_context(file).write_truth(0, world.truth)
        records, last, said = {}, {}, set()
        advance = stack.enter_context(bar("cycles", config.cycles * len(names), "cycles"))
        for name, analysis in analyses.items():
            with resuming.Progress(config, out, name) as progress:

                def keep(chunk, name=name, progress=progress):
                    advance(len(chunk.scores.rmse_a), name)
                    if file and chunk.fields is not None:
                        file.write(name, chunk.first, chunk.fields.mean, chunk.fields.spread, chunk.fields.members)
                    if chunk.finite:
                        progress.save(chunk)
                    for kind, notice in report.notices(name, chunk, config.faults).items():
                        if (name, kind) not in said:
                            launch.say(f"osse.py: {notice}", file=sys.stderr)
                        said.add((name, kind))

                records[name] = experiment.run_filter(
                    config, world, name, analysis, forecasters.pop(name), keep, progress.load
                )
                if records[name].status != "non-finite":
                    last[name] = progress.mean
            if writes:
                report.write_scores(out, records, config.interval_hours)
    if writes:
        report.write_json(out / "scores.json", records, dataclasses.asdict(config))
        if config.output.figures:
            truths = {name: np.asarray(world.seen_by(config.filters[name])[-1]) for name in names}
            plots.of_run(out / "figures", config, records, hours, truths, last)
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
        out = given.out or Path("runs") / Path(given.config).stem
        if given.resume and (out / "config.toml").is_file():
            resuming.require_same(config, out)
        else:
            report.new_folder(out)
        return run(config, out, launch.start(config.precision, config), arguments)
    except (ValueError, OSError) as error:
        return launch.refuse("osse.py", error)


if __name__ == "__main__":
    sys.exit(main())
