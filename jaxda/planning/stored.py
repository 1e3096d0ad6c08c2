"""Plans as plain values, for files and between processes, and back."""

from __future__ import annotations

from pathlib import Path

from jaxda import text_files
from jaxda.parallel.cost import Cost, Memory
from jaxda.parallel.hlo import Product, Transfer
from jaxda.parallel.scaling import Work
from jaxda.planning.programs import Plan


def plain_work(work: Work) -> dict:
    """Work as dictionaries, lists and numbers."""
    products = [one._asdict() for one in work.products]
    collectives = [one._asdict() | {"group": list(one.group)} for one in work.collectives]
    return work._asdict() | {"products": products, "collectives": collectives}


def work_of(tree: dict) -> Work:
    """What `plain_work` made plain."""
    products = tuple(Product(**one) for one in tree["products"])
    collectives = tuple(Transfer(**one | {"group": tuple(one["group"])}) for one in tree["collectives"])
    return Work(**tree | {"products": products, "collectives": collectives})


def plain(plan: Plan) -> dict:
    """A plan as dictionaries, lists and numbers."""
    cost = plan.cost._asdict() | {"memory": plan.cost.memory._asdict(), "work": plain_work(plan.cost.work)}
    return plan._asdict() | {"cost": cost}


def plan_of(tree: dict) -> Plan:
    """What `plain` made plain."""
    cost = tree["cost"]
    cost = Cost(**cost | {"memory": Memory(**cost["memory"]), "work": work_of(cost["work"])})
    return Plan(**tree | {"cost": cost})


def read(path: Path, flag: str = "--again") -> dict[str, list[Plan]]:
    """The plans in a file that scripts/scale_plan.py wrote and that a `flag` names.

    Raises:
        ValueError: it cannot be read, or has none.
    """
    try:
        tree = text_files.read_json(path)
        found = {title: [plan_of(one) for one in some] for title, some in tree["plans"].items()}
        if not found or not all(found.values()):
            raise ValueError("it has no plans")
        return found
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{flag} {path}: {type(error).__name__}: {error}; give a file that --json wrote") from None
