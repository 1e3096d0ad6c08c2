"""What differs between two settings is found with its field."""

from __future__ import annotations

import dataclasses

from jaxda import settings


@dataclasses.dataclass
class Inner:
    n: int = 1


@dataclasses.dataclass
class Outer:
    a: int = 1
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_the_first_difference_has_its_field():
    assert settings.difference(Outer(), Outer(inner=Inner(2))) == ("inner.n", 1, 2)
    assert settings.difference(Outer(a=3), Outer(inner=Inner(2))) == ("a", 3, 1)
    assert settings.difference({"a": 1}, {"a": 1, "b": {"c": 2}}) == ("b", None, {"c": 2})


def test_equal_settings_do_not_differ():
    assert settings.difference(Outer(), Outer()) is None
    assert settings.difference(Outer(), dataclasses.asdict(Outer())) is None
