"""Looking for what was sent to a real-time run, and for each of its cycles: nothing lost, nothing doubled."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxda.config import ExperimentConfig
from jaxda.output import product_file
from jaxda.realtime import feed
from jaxda.realtime.feed import Delivery
from jaxda.realtime.loop import EVENTS, STATUS

#: folders that files end in
PLACES = ("used", "rejected", "late", "duplicate")
#: kind of a delivery -> where its file may be in the end; any other kind of it is refused
FATES = {"": ("used",), "late": ("used", "late"), "duplicate": ("duplicate",)}


class Audit(NamedTuple):
    """How many files are in each folder, and what is wrong: a line each."""

    places: dict[str, int]
    complaints: list[str]


def audit(config: ExperimentConfig, deliveries: Iterable[Delivery], watch: Path, out: Path) -> Audit:
    """Compare what `watch` and `out` hold after a run with what `feed.deliver` sent it.

    Every file has to be in one folder, where its kind belongs, with its reason and its line of events.csv unless it was
    used; every cycle has to have one row of status.csv, in order, and a product; and the files that the rows name are
    those that were used.
    """
    found = {place: {path.name for path in (watch / place).glob("*.nc")} for place in PLACES}
    found["waiting"] = {path.name for path in watch.glob("*.nc")}
    events = Counter((row["decision"], row["file"]) for row in rows(out / EVENTS))
    complaints, sent = [], set()
    for delivery in deliveries:
        name = feed.file_of(config, delivery)
        sent.add(name)
        there = [place for place, names in found.items() if name in names]
        kind = f"{name} ({delivery.kind or 'good'})"
        if len(there) != 1 or there[0] not in FATES.get(delivery.kind, ("rejected",)):
            complaints.append(f"{kind}: is in {' and '.join(there) or 'no folder'}")
        elif there[0] != "used":
            if not (watch / there[0] / f"{name}.txt").is_file():
                complaints.append(f"{kind}: has no reason beside it in {there[0]}")
            if events[there[0], name] != 1:
                complaints.append(f"{kind}: has {events[there[0], name]} lines in {EVENTS}")
    for place, names in found.items():
        complaints += [f"{name}: is in {place}, and nobody sent it" for name in sorted(names - sent)]
    status = rows(out / STATUS)
    if [row["cycle"] for row in status] != [str(cycle) for cycle in range(config.cycles)]:
        complaints.append(f"{STATUS}: has {len(status)} rows, not one for each of {config.cycles} cycles in order")
    used = Counter(row["file"] for row in status if row["file"])
    complaints += [f"{name}: is in {count} rows of {STATUS}" for name, count in used.items() if count > 1]
    if set(used) != found["used"]:
        complaints.append(f"{STATUS}: names {len(used)} files, the folder used has {len(found['used'])}")
    interval = 3600.0 * config.interval_hours
    products = {path.name for path in out.glob("analysis_*.nc")}
    wanted = {product_file.name_of(interval * cycle) for cycle in range(config.cycles)}
    if products != wanted:
        complaints.append(f"{out}: {len(wanted - products)} products are missing, {len(products - wanted)} too many")
    return Audit({place: len(names) for place, names in found.items()}, complaints)


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, none where it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
