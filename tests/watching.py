"""What tests of real-time runs share: a clock of their own, and what is looked at in the folders."""

import csv

from jaxda.output import product_file
from jaxda.realtime import loop


class FakeTime:
    """A clock that moves on by a second a look, and lets files arrive: time -> what to do then."""

    def __init__(self, arrivals=None, last=float("inf")):
        self.seconds, self.arrivals, self.last, self.shown = 1000.0, dict(arrivals or {}), last, []
        self.host = loop.Host(lambda: self.seconds, self.pause, lambda: self.seconds >= self.last, self.shown.append)

    def pause(self):
        self.seconds += 1.0
        for when in [when for when in self.arrivals if when <= self.seconds]:
            self.arrivals.pop(when)()


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(out):
    """What must not depend on how often a run was ended: fields of the products, and rows without what was timed."""
    fields = {}
    for path in sorted(out.glob("*.nc")):
        times, arrays = product_file.read(path)
        fields[path.name] = (times, {name: array.tobytes() for name, array in arrays.items()})
    free = {f"{stage}_s" for stage in loop.STAGES} | {"queue"}
    return fields, [{k: v for k, v in row.items() if k not in free} for row in rows(out / "status.csv")]


def names(folder):
    return sorted(path.name for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))


def everywhere(watch):
    """Files of observations in the folder and those below."""
    return sorted(path.name for path in watch.rglob("*.nc*") if not path.name.endswith(".txt"))
