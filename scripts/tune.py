"""Search a filter's settings: python scripts/tune.py CONFIG --filter NAME --values FIELD=A,B,... [--values ...].

Runs the filter on the truth and observations of an experiment with every combination of the values, or with --trials
of them drawn at random where there are more; --cycles N and any other --any.field of the experiment apply to all. The
score is the analysis RMSE, mean of the last third of the cycles; runs that diverge or go non-finite count as worst.
Each finished trial is a row of DIR/trials.csv: the same command goes on where it was stopped. At the end it prints the
trials, best first, and writes DIR/figure.png and DIR/best.toml, a [filters.NAME] table to paste in a configuration.

For instance: python scripts/tune.py configs/partial.toml --filter LETKF --cycles 60 --values cutoff=1500,2000,2500
    --values rtps=0.3,0.5,0.7 --values adaptive=none,regional

Exit status: 0; 2 for bad input, and then nothing is written; 3 if no trial kept to the truth; 75 if SIGTERM, SIGINT or
SIGUSR1 stopped it: the trial that it was at is begun again.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

from jaxda import config as configuration
from jaxda import experiment, tuning
from jaxda.output import record, report, tuning_plots
from jaxda.output.progress import bar
from jaxda.parallel import launch, stopping
from jaxda.settings import Parser, place


def run(config: configuration.ExperimentConfig, name: str, todo: list[dict], folder: tuning.Folder, words, stop) -> int:
    """Do the trials that are not done and write what all of them say; returns the exit status."""
    check = lambda: stop.check("the same command goes on")
    missing = [values for values in todo if folder.find(values) is None]
    if missing:
        states = (config.nature.spinup_days + config.nature.climate_days) * 24 / config.interval_hours
        with bar("nature run", states, "states") as advance:
            world = experiment.make_world(config, lambda done: (advance(done), check()))
        folder.start()
        record.write(folder.path, "tune.py", words, config)
        with bar("trials", len(missing), "trials") as advance:
            for values in missing:
                folder.add(
                    tuning.run(config, world, name, values, lambda chunk: chunk.done < config.cycles and check())
                )
                advance(1)
                check()
    trials = tuning.ranked(folder.find(values) for values in todo)
    best = trials[0]
    title = f"{name}, {len(trials)} trials, RMSE of the last third of {config.cycles} cycles"
    unit = "" if config.unit == "1" else f" {config.unit}"
    above = f"{config.title}: {title}" if config.title else title
    tuning_plots.trials(folder.path / "figure.png", trials, config.unit, above)
    lines = [report.trial_table(title, trials, config.unit)]
    if math.isinf(best.score):
        report.print_lines([*lines, f"no trial kept to the truth; written to {folder.path}"])
        return 3
    tuning.write_best(folder.path / "best.toml", config, name, best, f"{title}: {best.score:.4g}{unit}, the best")
    report.print_lines([*lines, f"written to {folder.path}"])
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("tune.py", __doc__)
    parser.add_argument("config", metavar="CONFIG", help="experiment file, such as configs/partial.toml")
    parser.add_argument("--filter", required=True, metavar="NAME", help="which of its filters")
    parser.add_argument("--values", action="append", default=[], metavar="FIELD=A,B,...", help="a field's values")
    parser.add_argument("--trials", type=int, default=50, help="combinations tried, at most [1]")
    parser.add_argument("--out", type=place, help="folder, new or of the same search (default: runs/tune-CONFIG-NAME)")
    try:
        given, rest = parser.parse_known_args(arguments)
        if given.trials < 1:
            raise ValueError(f"--trials {given.trials}: nothing to do; use at least 1")
        config = configuration.read(given.config, configuration.parse_overrides(rest))
        config = tuning.with_values(config, given.filter, {})
        space = tuning.parse_values(given.values)
        todo = tuning.candidates(space, given.trials)
        search = {"filter": given.filter, "trials": given.trials, "values": space}
        resolved = configuration.without_none(dataclasses.asdict(config))
        out = given.out or Path("runs") / f"tune-{Path(given.config).stem}-{given.filter}"
        folder = tuning.Folder(out, {"search": search, "experiment": resolved}, space)
        launch.start(config.precision)
        for values in todo:
            experiment.check(tuning.with_values(config, given.filter, values))
        with stopping.watched() as stop:
            return run(config, given.filter, todo, folder, arguments, stop)
    except stopping.Stopped as stopped:
        print(f"tune.py: {stopped}", file=sys.stderr)
        return stopping.REQUEUE
    except (ValueError, OSError) as error:
        return launch.refuse("tune.py", error)


if __name__ == "__main__":
    sys.exit(main())
