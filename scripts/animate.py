"""A film of a run: python scripts/animate.py RUN [--out FILE.mp4|FILE.gif] [--filter NAME] [--boundary lower|upper].

RUN is a folder that scripts/osse.py wrote with output.fields (the default); a frame a cycle shows truth, analysis mean
and error of one experiment. Without --out it is RUN/figures/NAME.mp4, or .gif where there is no ffmpeg: that of the
machine, or of pip install "jaxda[video]". Nothing is run again; of a run that is not finished the cycles that are there
are shown.

Exit status: 0; 2 for bad input, and then nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jaxda import config as configuration
from jaxda import figures
from jaxda.output import animation, report
from jaxda.parallel import launch
from jaxda.settings import Parser, at_least, place


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("animate.py", __doc__)
    parser.add_argument("run", metavar="RUN", type=place, help="folder of a run of scripts/osse.py")
    parser.add_argument("--out", type=place, metavar="FILE", help=f"ends in {' or '.join(animation.FORMATS)}")
    parser.add_argument("--filter", metavar="NAME", help="experiment to show (default: the last one)")
    parser.add_argument("--boundary", choices=("lower", "upper"), default="upper", help="of SQG (default: upper)")
    parser.add_argument("--rate", type=at_least(1), default=4, help="frames a second [1/s]")
    try:
        given = parser.parse_args(arguments)
        figures.require_run(given.run)
        config = configuration.read(given.run / "config.toml")
        name = given.filter or list(config.filters)[-1]
        ending = ".mp4" if animation.ffmpeg() else ".gif"
        out: Path = given.out or given.run / figures.FOLDER / f"{name}{ending}"
        animation.make_writer(out, given.rate)
        truth, mean, hours = figures.analyses(config, given.run, name, ("lower", "upper").index(given.boundary))
        report.may_write(out.parent)
        out.parent.mkdir(exist_ok=True)
        length = getattr(config.model, "L", 0.0)
        animation.film(out, truth, mean, hours, name, length, given.rate)
    except (ValueError, OSError) as error:
        return launch.refuse("animate.py", error)
    report.print_lines([f"{out}: {len(hours)} cycles"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
