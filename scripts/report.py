"""One HTML page about one run or several: python scripts/report.py DIR... [--out report.html].

Each DIR is the folder of a twin experiment, a real-time run, a training, a forecast or a search. The page has scores
(a click on a head sorts), what differs between the settings of several runs, warnings, figures, timings, settings, the
reproducibility record and the command to run it again. It is one file, which fetches nothing when it is opened. Of a
run that is unfinished, of another version or without some of its files it shows what is there and says what is not.

Exit status: 0; 2 for bad input, said in one line, and then nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jaxda.output import html_report, report
from jaxda.settings import Parser, place


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("report.py", __doc__)
    about = "folder of a run, such as runs/quickstart"
    parser.add_argument("folders", nargs="+", type=place, metavar="DIR", help=about)
    about = "page to write, in place of any before (default: report.html)"
    parser.add_argument("--out", type=place, default=Path("report.html"), metavar="FILE.html", help=about)
    try:
        given = parser.parse_args(arguments)
        if given.out.suffix not in (".html", ".htm"):
            raise ValueError(f"--out {given.out}: is of unknown kind; give a name that ends in .html")
        report.new_file("--out", given.out)
        for line in html_report.write(given.out, given.folders):
            print(f"not there: {line}")
        print(f"written to {given.out}")
        return 0
    except (ValueError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
