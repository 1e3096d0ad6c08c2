"""Forecast with a trained surrogate: python scripts/forecast.py FOLDER [--start FILE[:NUMBERS]] [--steps N].

Rolls the surrogate in FOLDER, which scripts/train_vit.py wrote, out beside the SQG model that it learnt and writes
DIR/scores.csv (a row a lead), DIR/forecast.nc (fields and spectra) and DIR/figures.

FILE holds states to start from: a nature run, an ensemble, or an analysis.nc; NUMBERS are those of its times, such as
0,5,-1 or 0:100:10. Scores are over all starts and members. Without --start, starts are spread over the part of the
training's series that was held out. The truth is the SQG model from the same states, or the later states of the file.

Exit status: 0; 2 for bad input, said in one line, and then nothing is written; 3 if the forecast went non-finite.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from jaxda import forecast, surrogate
from jaxda.output import forecast_file, forecast_plots, netcdf, record, report, starts
from jaxda.output.progress import bar
from jaxda.parallel import launch
from jaxda.parallel.mesh import member_mesh
from jaxda.settings import Parser, at_least, place
from jaxda.training import dataset


def make_parser() -> Parser:
    """The options."""
    parser = Parser("forecast.py", __doc__)
    add, count = parser.add_argument, at_least(1)
    add("folder", type=place, metavar="FOLDER", help="a training's output, such as runs/vit_tiny")
    add("--start", metavar="FILE[:NUMBERS]", help="states to start from (default: the training's, held out)")
    add("--experiment", metavar="NAME", help="whose analyses to start from, of several in an analysis.nc")
    add(
        "--starts",
        type=count,
        help=f"start times, evenly spread [1] (default: {starts.STARTS}; ensembles: the last)",
    )
    add("--members", type=count, help="members of an ensemble [1] (default: all)")
    add("--steps", type=count, default=40, help="leads to forecast [1]")
    add("--lead-hours", type=float, metavar="H", help="one of the surrogate's lead times [h] (default: its first)")
    add("--truth", choices=["sqg", "file"], default="sqg", help="SQG from the same states, or the file's later ones")
    add("--which", choices=["best", "last"], default="best", help="of the checkpoints")
    add("--save-every", type=count, metavar="K", help="leads between fields kept [1] (default: as fit in 256 MiB)")
    add("--out", type=place, help="folder to write, new or empty (default: runs/forecast-NAME OF FOLDER)")
    return parser


def source_of(o: argparse.Namespace, config: surrogate.SurrogateConfig) -> tuple[starts.Source, str | None]:
    """Where the states come from, and the numbers asked for."""
    if o.start is not None:
        path, numbers = starts.split_place(o.start)
        if numbers is not None and o.starts is not None:
            raise ValueError(f"--starts {o.starts}: --start {o.start} names them; leave either out")
        return starts.of_file(path, config.model, o.experiment), numbers
    for option in ("experiment", "members"):
        if getattr(o, option) is not None:
            raise ValueError(f"--{option} {getattr(o, option)}: is of states in a file; give --start too")
    if config.data.test == 0:
        raise ValueError("--start: left out, but the training held nothing out (data.test = 0); give one")
    with bar("series", config.series.days + config.series.spinup_days, "days") as advance:
        series = surrogate.make_series(config, advance)
    return starts.of_series(series, dataset.split(series, config.data).test, "series held out"), None


def run(o: argparse.Namespace, out: Path, words: list[str]) -> int:
    """Forecast and write the folder; returns the exit status."""
    trained = surrogate.load(o.folder, o.which)
    config, hours = trained.config, forecast.lead_hours_of(trained.config, o.lead_hours)
    source, numbers = source_of(o, config)
    chosen = {"count": o.starts, "members": o.members, "leads": o.steps, "lead_hours": hours}
    begin = starts.choose(source, numbers, **chosen, own_truth=o.truth == "file")
    times, members = begin.states.shape[:2]
    step = forecast.make_steps(trained, hours, member_mesh(times * members))

    out.mkdir(parents=True, exist_ok=True)
    record.write(out, "forecast.py", words, config)
    about = {
        "checkpoint": f"{o.folder}, step {trained.step}",
        "starts": source.name,
        "history": netcdf.dated(shlex.join(["forecast.py", *words])),
    }
    grid = {"members": members if source.ensemble else 0, "shared_truth": begin.later is not None}
    every = o.save_every or forecast_file.spacing(config.model, times * members, o.steps)
    leads = np.arange(0, o.steps + 1, every)
    file = forecast_file.ForecastFile(out / "forecast.nc", config.model, begin.hours, leads, hours, **grid, **about)
    drawn, scores, spectra, fields = forecast_plots.some_leads(o.steps, 4), [], [], {}
    with bar("forecast", o.steps, "leads") as advance:
        for lead in forecast.roll_out(trained, step, begin, o.steps):
            file.write(lead.number, lead.forecast, lead.truth, lead.spectra)
            scores.append(lead.scores)
            spectra.append(lead.spectra)
            if lead.number in drawn:
                pair = [np.asarray(states[0, 0, 1]) for states in (lead.truth, lead.forecast)]
                fields[lead.number] = config.model.kelvin * np.stack(pair)
            advance(min(lead.number, 1))
    scores, spectra = forecast.stacked(scores), forecast.stacked(spectra)
    forecast_file.write_scores(out / "scores.csv", hours, forecast.SCORES, scores)
    title = f"{config.title or o.folder.name}, {times} start{'s' * (times > 1)}"
    title += f" of {members} members" if source.ensemble else ""
    forecast_plots.of_run(out / "figures", scores, spectra, fields, hours, config.model.L, title)
    table = report.forecast_table(title, scores, forecast_plots.some_leads(o.steps, 9), hours)
    lines = forecast.verdict(scores, spectra, forecast.seconds_per_step(step, begin))
    report.print_lines([table, *lines, f"written to {out}"])
    return 0 if scores["finite"].all() else 3


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        o = make_parser().parse_args(words)
        out = report.new_folder(o.out or Path("runs") / f"forecast-{o.folder.resolve().name}")
        launch.start("float32")
        return run(o, out, words)
    except (ValueError, OSError) as error:
        return launch.refuse("forecast.py", error)


if __name__ == "__main__":
    sys.exit(main())
