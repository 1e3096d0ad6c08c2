"""How objects with arrays show themselves in IPython: in a line, not in pages of numbers.

An array is its type, its shape, and the range of its values, where these are known: under `jit` they are not.
"""

from __future__ import annotations

import dataclasses

import numpy as np

#: arrays with more values than this show their range in place of them
FEW = 4


def brief(value) -> str:
    """A value in a few words.

    Examples:
        >>> import numpy as np
        >>> brief(np.array([[1.0, np.nan], [3.0, 2.0], [0.0, 0.0]], np.float32))
        'float32[3, 2] from 0 to 3, 1 NaN'
    """
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return repr(value)
    if isinstance(value, dict | list | tuple):
        few = len(value) <= FEW and all(isinstance(item, int | float | str) for item in value)
        return repr(value) if few else f"{type(value).__name__} of {len(value)}"
    if callable(value):
        return f"<{getattr(value, '__qualname__', type(value).__name__)}>"
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return repr(value)
    kind = f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    try:
        numbers = np.asarray(value)
    except (TypeError, RuntimeError):  # traced, a key; deleted, or not all of it in this process
        return kind
    if numbers.dtype.kind not in "biuf" or numbers.size == 0:
        return kind
    if numbers.size <= FEW:
        return f"{kind} {' '.join(f'{number:.4g}' for number in numbers.ravel().astype(float))}"
    lost = int(np.isnan(numbers).sum()) if numbers.dtype.kind == "f" else 0
    between = f" from {np.nanmin(numbers):.4g} to {np.nanmax(numbers):.4g}" if lost < numbers.size else ""
    return f"{kind}{between}{f', {lost} NaN' if lost else ''}"


def in_brief(self) -> str:
    """A `__repr__` for named tuples and dataclasses that hold arrays: the name, and each field in a few words."""
    names = (
        self._fields if hasattr(self, "_fields") else [field.name for field in dataclasses.fields(self) if field.repr]
    )
    fields = ", ".join(f"{name}={brief(getattr(self, name))}" for name in names)
    return f"{type(self).__name__}({fields})"


def as_typed(self) -> str:
    """A `__repr__` for settings: what makes the same, without the fields that are at their defaults."""
    fields = ((field.name, getattr(self, field.name), _default_of(field)) for field in dataclasses.fields(self))
    return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value, usual in fields if value != usual)})"


def _default_of(field: dataclasses.Field):
    if field.default is not dataclasses.MISSING:
        of_pydantic = getattr(field.default, "get_default", None)
        return of_pydantic(call_default_factory=True) if of_pydantic else field.default
    return dataclasses.MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()
