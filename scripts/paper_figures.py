"""The figures of the paper's results, from our own data: python scripts/paper_figures.py --out DIR [...].

    work.png            operations to train the published sizes, and node hours: from configs/vit_64.toml, 128, 256
    collectives.png     all-reduces by message size: from the machines' files, published and measured
    rmse.png            analysis errors of the coupled system (Fig. 4):    --run RUN, of configs/paper_fig4.toml
    rates.png           TFLOP/s by width, heads and MLP ratio (Fig. 5):    --rates FILE.json of bench.py --heatmap
    plan_scaling.png, plan_shares.png, plan_memory.png  a training on 1024 devices:    --plan FILE.json of scale_plan.py
    plan_analyses.png   the filter on Lorenz-96 on 1024 devices:           --plan FILE.json of scale_plan.py

What an option is not given for is left out, and said. docs/figures.md has the commands that make those files.

Exit status: 0; 2 for bad input, and then nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from jaxda import config as configuration
from jaxda import figures, text_files
from jaxda.models import vit
from jaxda.output import bench_plots, report, scale_plots
from jaxda.parallel import launch
from jaxda.parallel.machine import Machine
from jaxda.planning import stored, tables
from jaxda.settings import Parser, place
from jaxda.surrogate import SurrogateConfig
from jaxda.training import flops

CONFIGS = Path(__file__).parents[1] / "configs"
MACHINES = CONFIGS / "machines"
#: trainings of the published sizes, and how many images their work is counted for
TRAININGS, IMAGES = ("vit_64", "vit_128", "vit_256"), 1e6


def rates_in(path: Path) -> dict[tuple, float | None]:
    """What bench.py --heatmap --json kept: (MLP ratio, heads, width) -> rate [FLOP/s], None where memory was short.

    Raises:
        ValueError: it is no such file.
    """
    try:
        content = text_files.read_json(path)
        return {tuple(size): rate for *size, rate in content["heatmap"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--rates {path}: {type(error).__name__}: {error}; use bench.py --heatmap --json") from None


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("paper_figures.py", __doc__)
    parser.add_argument("--out", type=place, required=True, metavar="DIR", help="folder for the figures")
    parser.add_argument("--run", type=place, help="folder of a run of configs/paper_fig4.toml")
    parser.add_argument("--rates", type=place, metavar="FILE.json", help="of bench.py vit-train --heatmap --json")
    parser.add_argument("--plan", type=place, action="append", default=[], metavar="FILE.json", help="of scale_plan.py")
    parser.add_argument("--machine", type=place, default=MACHINES / "frontier.toml", help="that the plans are for")
    try:
        given = parser.parse_args(arguments)
        machine = configuration.read(given.machine, {}, Machine)
        if given.run:
            figures.require_run(given.run)
            scores = figures.scores_of(given.run / "scores.csv")
        rates = rates_in(given.rates) if given.rates else {}
        plans = {}
        for path in given.plan:
            plans |= stored.read(path, "--plan")
        out = report.may_write(given.out)
        out.mkdir(parents=True, exist_ok=True)
        launch.start()
        work(out / "work.png", machine)
        collectives(out / "collectives.png")
        if given.run:
            figures.errors_of(configuration.read(given.run / "config.toml"), scores, out / "rmse.png")
        if rates:
            bench_plots.rates(out / "rates.png", rates)
        if plans:
            tables.figures(out, plans, machine, 8, "pipelined")
    except (ValueError, OSError) as error:
        return launch.refuse("paper_figures.py", error)
    left_out = [f"--{name}: not given; left out" for name in ("run", "rates", "plan") if not getattr(given, name)]
    report.print_lines([*(str(path) for path in sorted(out.glob("*.png"))), *left_out])
    return 0


def work(path: Path, machine: Machine) -> None:
    """Operations and node hours of trainings of the published sizes."""
    found = {}
    for name in TRAININGS:
        config = configuration.read(CONFIGS / f"{name}.toml", {}, SurrogateConfig)
        side = config.vit.image_size
        found[f"{side} x {side}"] = (vit.count_parameters(config.vit), flops.of_step(config.vit, IMAGES))
    scale_plots.work(path, found, machine.node * machine.rate(machine.node), IMAGES, machine.title)


def collectives(path: Path) -> None:
    """All-reduces of the machines that there are files of."""
    found = {}
    for file in sorted(MACHINES.glob("*.toml")):
        machine = configuration.read(file, {}, Machine)
        for table in machine.all_reduce:
            if len(np.unique(table.bus_bandwidths)) > 1:  # one speed for all sizes was assumed, not measured
                found[f"{machine.title}, {table.devices} devices"] = (table.sizes, table.bus_bandwidths)
    scale_plots.bandwidths(path, found)


if __name__ == "__main__":
    sys.exit(main())
