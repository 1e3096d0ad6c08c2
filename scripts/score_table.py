"""Put the runs of several seeds into one table: python scripts/score_table.py RUN_FOLDER...

Each folder is one of osse.py with its scores.json. Runs whose settings differ in nothing but seeds and what is written
are one experiment; for each a table in Markdown is printed, a row for each filter: means over the seeds and, from two
on, their standard error. Seeds in which a filter did not end as "ok" are counted and their scores left out.

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import sys

from jaxda.output import report
from jaxda.settings import Parser, place


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("score_table.py", __doc__)
    parser.add_argument("folders", nargs="+", type=place, metavar="RUN_FOLDER", help="folder that holds a scores.json")
    try:
        given = parser.parse_args(arguments)
        print("\n\n".join(report.seed_tables([report.read_json(folder / "scores.json") for folder in given.folders])))
        return 0
    except (ValueError, OSError) as error:
        print(f"score_table.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
