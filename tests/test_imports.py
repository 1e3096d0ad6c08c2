"""The floors of the house: a module imports from below its own floor, or from its own package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "lazy": -2,
    "shown": -2,
    "settings": -1,
    "text_files": -1,
    "limits": -1,
    "numerics": 0,
    "parallel": 0,
    "models": 1,
    "observations": 1,
    "filters": 2,
    "diagnostics": 2,
    "training": 3,
    "exactness": 3,
    "posteriors": 2,
    "twin": 3,
    "lorenz96_scaling": 3,
    "output": 4,
    "config": 5,
    "nature": 5,
    "sources": 5,
    "truth": 6,
    "surrogate": 6,
    "forecast": 7,
    "coupling": 8,
    "conversion": 8,
    "experiment": 9,
    "compare": 10,
    "drill_runs": 11,
    "drill": 12,
    "realtime": 10,
    "figures": 10,
    "resuming": 10,
    "tuning": 10,
    "benchmarks": 10,
    "planning": 11,
}
MODULES = sorted((ROOT / "jaxda").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # loading runs what the file says


def name_of(path):
    return str(path.relative_to(ROOT))


def imported(source, package=()):
    """Dotted names that the source imports, anywhere in it; `package` resolves the relative ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from jaxda import twin` imports a module: the names belong to what is imported
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def wrong_imports(source, package, own):
    """Parts of jaxda that a module of the part `own` imports and may not."""
    parts = {name.split(".")[1] for name in imported(source, package) if name.startswith("jaxda.")}
    return {part for part in parts - {own, "__version__"} if FLOORS[part] >= FLOORS[own]}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_the_floors(path):
    inside = path.relative_to(ROOT).with_suffix("").parts
    own = inside[1]
    if own == "__init__":
        assert {name for name in imported(path.read_text(), ("jaxda",)) if name.startswith("jaxda")} <= {"jaxda.lazy"}
        return
    assert own in FLOORS, f"give {own} a floor"
    assert not wrong_imports(path.read_text(), inside[:-1], own)


@pytest.mark.parametrize(
    "source",
    [
        "import jaxda.twin",
        "import jaxda.twin as t",
        "from jaxda import twin",
        "from jaxda.twin import cycle",
        "from ..twin import cycle",
        "from .. import twin",
        "def later():\n    from jaxda.twin import cycle",
    ],
)
def test_an_import_going_up_is_seen(source):
    assert wrong_imports(source, ("jaxda", "filters"), "filters") == {"twin"}


@pytest.mark.parametrize(
    "source", ["from . import letkf", "from .letkf import x", "import jax", "from jaxda.models import sqg"]
)
def test_an_import_going_down_is_allowed(source):
    assert wrong_imports(source, ("jaxda", "filters"), "filters") == set()


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name_of)
def test_nothing_loads_pickles(path):
    source = path.read_text()
    assert not {name.split(".")[0] for name in imported(source)} & UNSAFE
    keywords = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.keyword)]
    allowed = [word for word in keywords if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"]
    assert not allowed
