"""Draw the figures of runs again, from their files: python scripts/figures.py RUN... .

RUN is a folder that scripts/osse.py wrote (also while it runs, or where it was interrupted) or scripts/train_vit.py.
Nothing is run again: RUN/figures/ is made from scores.csv, diagnostics.nc and analysis.nc, or from log.csv.
docs/figures.md says what each figure shows.

Exit status: 0; 2 for bad input; 3 if a figure of a run could not be drawn, with the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jaxda import figures
from jaxda.output import report
from jaxda.parallel import launch
from jaxda.settings import Parser, place


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("figures.py", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=place, help="folder of a run or of a training")
    try:
        folders: list[Path] = parser.parse_args(arguments).runs
        for folder in folders:
            figures.require_run(folder)
            report.may_write(folder / figures.FOLDER)
        launch.start()
        lines, status = [], 0
        for folder in folders:
            drawn, missing = figures.draw(folder)
            lines += [str(path) for path in drawn]
            wanted = {name: why for name, why in missing.items() if name != "plume"}
            lines += [f"{folder / figures.FOLDER / name}.png: not drawn: {why}" for name, why in missing.items()]
            status = 3 if wanted else status
        report.print_lines(lines)
        return status
    except (ValueError, OSError) as error:
        return launch.refuse("figures.py", error)


if __name__ == "__main__":
    sys.exit(main())
