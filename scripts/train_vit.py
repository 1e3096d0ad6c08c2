"""Train a surrogate: python scripts/train_vit.py CONFIG [--out DIR] [--any.field value ...].

Reads a TOML file, makes or reads the series of states (or none: series.source = "simulator"), trains the vision
transformer, and writes DIR/config.toml, DIR/log.csv (a row for each validation: RMSE in K, persistence and anomaly
correlation by lead, samples/s, TFLOP/s of 6 x parameters x tokens, and their share of this device's matrix products),
DIR/events for TensorBoard and DIR/checkpoints, the best and the last three. The same command, with --resume or without,
goes on from the last checkpoint, bit for bit.

Exit status: 0; 2 for bad input or a loss that is not finite, said in one line; 75 if SIGTERM, SIGINT or SIGUSR1 stopped
it, which a second one does at once (128 + its number).
"""

from __future__ import annotations

import sys
from pathlib import Path

from jaxda import config as configuration
from jaxda import surrogate
from jaxda.models import vit
from jaxda.output import record, report
from jaxda.output.progress import bar
from jaxda.parallel import launch, sharding, stopping
from jaxda.settings import Parser, place


def help_text() -> str:
    """Every field of a training, its default and its unit."""
    fields = configuration.describe(surrogate.SurrogateConfig)
    rows = (f"  --{name}  ({default})\n        {text}" for name, default, text in fields)
    return "fields of the training (default), each with its unit in brackets:\n" + "\n".join(rows)


def run(config: surrogate.SurrogateConfig, out: Path, words: list[str] | None, stop: stopping.Stop) -> None:
    """Train and say what came of it."""
    days = surrogate.series_days(config) + config.series.spinup_days if config.series.file is None else 1.0
    with bar("series", days, "days") as advance:
        series = surrogate.make_series(config, lambda days: (advance(days), stop.check()))
    parameters = vit.count_parameters(config.vit)
    launch.say(f"{parameters:,} parameters, {series.count} states every {series.interval_hours:g} h")
    with bar("training", config.train.steps, "steps") as advance:
        done = 0

        def said(step: int, text: str) -> None:
            nonlocal done
            advance(max(step - done, 0), scores=text)
            done = max(step, done)

        keep = lambda: record.write(out, "train_vit.py", words, config)
        best = surrogate.train(config, series, out, said, keep, stop)
    hours = config.data.lead_hours[0]
    stay = f" (persistence {best['persistence_1']:.3f} K)" if "persistence_1" in best else ""
    launch.say(f"best at step {best['step']}: RMSE {best['rmse_1']:.3f} K after {hours:g} h{stay}")
    launch.say(f"written to {out}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("train_vit.py", __doc__, epilog=help_text())
    parser.add_argument("config", metavar="CONFIG", help="training file, such as configs/vit_tiny.toml")
    parser.add_argument("--out", type=place, help="folder, new or of the same training (default: runs/NAME OF CONFIG)")
    parser.add_argument(
        "--resume", action="store_true", help="as without it: it goes on with the training in that folder"
    )
    try:
        given, rest = parser.parse_known_args(arguments)
        overrides = configuration.parse_overrides(rest)
        config = configuration.read(given.config, overrides, surrogate.SurrogateConfig)
        out = report.may_write(given.out or Path("runs") / Path(given.config).stem)
        if out.is_dir() and any(out.iterdir()) and not (out / "checkpoints").is_dir():
            raise ValueError(f"{out}: is not empty, nor of a training; give another --out, or move it away")
        started = launch.start("float32", config)
        surrogate.check(config)
        mesh = sharding.make_layout(config.parallel).mesh
        launch.say(launch.describe(started, "float32", mesh), sys.stderr)
        with stopping.watched() as stop:
            run(config, out, arguments, stop)
        return 0
    except stopping.Stopped as stopped:
        launch.say(f"train_vit.py: {stopped}", sys.stderr)
        return stopping.REQUEUE
    except (ValueError, OSError) as error:
        return launch.refuse("train_vit.py", error)


if __name__ == "__main__":
    sys.exit(main())
