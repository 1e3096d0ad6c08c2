"""Do faults to real runs and see whether they survive: python scripts/fault_drill.py FOLDER [--kills N] [--only WORDS].

Small runs of every kind (twin experiment, training, nature run, real time) are killed at random moments, stopped by
signals, lose their disk space or a rank, have their checkpoints and files cut off or a bit of them flipped, and see the
clock jump. Each goes on with --resume and has to end with the numbers of an undisturbed run bit for bit, or to say in
one line why it can't. Prints a table (docs/faults.md); what is left of a failure stays in FOLDER.

Exit status: 0; 1 if a fault was not survived; 2 for bad input.
"""

from __future__ import annotations

import signal
import sys

from jaxda import drill
from jaxda.output import report
from jaxda.parallel import launch
from jaxda.settings import Parser, at_least, place

KINDS = ("kill", "stop", "checkpoints", "files", "disk", "clock", "ranks")


def run(given) -> int:
    """The drill; returns the exit status."""
    one = drill.Drill(given.folder, given.seed, lambda text: print(text, flush=True))
    few = max(1, given.kills // 5)
    times = {"osse": given.kills, "training": given.kills, "nature": few, "realtime": few}
    wanted = given.only or KINDS
    for name, count in times.items():
        if "kill" in wanted:
            one.signalled("kill -9", name, signal.SIGKILL, count)
        if "stop" in wanted:
            one.signalled("SIGTERM", name, signal.SIGTERM, max(1, count // 10))
        if "clock" in wanted:
            one.clock_jumps(name)
        if "disk" in wanted:
            one.disk_full(name, (2**10, 2**14, 2**16, 2**19))
    if "checkpoints" in wanted:
        one.checkpoints_changed("osse", given.positions)
        one.checkpoints_changed("training", given.positions // 4)
    if "files" in wanted:
        one.files_changed()
    if "ranks" in wanted:
        one.rank_killed(max(2, given.kills // 12))
    print("\n".join(drill.table(one.tallies)))
    return int(any(tally.failures for tally in one.tallies.values()))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("fault_drill.py", __doc__)
    parser.add_argument("folder", metavar="FOLDER", type=place, help="new or empty folder to work in")
    parser.add_argument("--kills", type=at_least(1), default=50, help="of the experiment, and of the training [1]")
    parser.add_argument("--positions", type=at_least(4), default=20, help="that a checkpoint is cut off at [1]")
    parser.add_argument(
        "--only", action="append", choices=KINDS, help="kinds of faults, given again for each (default: all)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of moments and places [1]")
    try:
        given = parser.parse_args(arguments)
        launch.require_one()
        report.new_folder(given.folder)
        return run(given)
    except (ValueError, OSError) as error:
        return launch.refuse("fault_drill.py", error)


if __name__ == "__main__":
    sys.exit(main())
