"""Modules that are imported when they are first used, so that `import jaxda` takes no time (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType


def modules_of(package: str, path: Sequence[str]) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: `jaxda.models.sqg` works, and is completed, after `import jaxda`."""

    def names() -> list[str]:
        import pkgutil  # takes longer than all else here

        return sorted(module.name for module in pkgutil.iter_modules(path))

    def getattr_of_package(name: str) -> ModuleType:
        if name.startswith("_") or name not in names():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return getattr_of_package, names
