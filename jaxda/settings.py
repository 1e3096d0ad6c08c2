"""How configuration is declared: frozen dataclasses that check themselves when they are made.

Every module owns the settings of what it makes; `jaxda.config` only composes them. A field's
description ends with its unit in brackets, and `scripts/*.py --help` prints it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as _dataclass

from jaxda.shown import as_typed

#: What pydantic adds to a field's path: the branch of a union that it tried.
_BRANCHES = {"sqg", "lorenz96", "local-score", "letkf", "ensf", "own", "free-run", "observations-only", "climatology"}
_BRANCHES |= {"constrained-float", "constrained-int", "function-after", "tuple", "float", "int", "bool"}
_BRANCHES |= {"line", "season", ""}  # the last is left of what follows a key that a table may not have, [key]
#: A kind that each table may have.
_KINDS = {"filters": "letkf", "model": "sqg", "schedule": "line"}

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False, hide_input_in_errors=False)

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
#: what fits into 32 bits, as counts do on devices
Count = Annotated[int, Field(ge=1, lt=2**31)]
Members = Annotated[int, Field(ge=2, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
#: what members are forecast by: the model, the truth's own one, a trained surrogate, the model and a learned correction
Forecasts = Literal["model", "perfect", "surrogate", "hybrid"]
#: a length that may be infinite: "no localization"
Length = Annotated[float, Field(gt=0, allow_inf_nan=True)]


def settings(cls):
    """Make `cls` a frozen, keyword-only dataclass whose fields pydantic checks, and which shows what is not default."""
    cls.__repr__ = as_typed
    return _dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)


def described(default, description: str):
    """A field with its default and a description that ends in the unit."""
    return Field(default=default, description=description)


@settings
class FilterSettings:
    """What the settings of every filter, one row of an experiment, share."""

    members: Members | None = described(None, "ensemble size of this filter; the experiment's where left out [1]")
    forecast: Forecasts | None = described(None, "what forecasts its members; the experiment's where left out")
    online: bool = described(False, "whether what forecasts its members learns from its analyses")
    shocks: bool = described(True, "whether its truth has the experiment's shocks; else it is the same truth without")


def one_line(error: ValidationError) -> str:
    """The first complaint of pydantic as `field = value: message`, and how many more there are."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    is_name = [before == "filters" for before in ["", *parts]]  # a filter may be called what a branch is called
    kept = zip(parts, is_name, strict=False)
    field = ".".join(part for part, name in kept if name or part.split("[")[0] not in _BRANCHES)
    value, message = first["input"], first["msg"].removeprefix("Value error, ")
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        message = "there is no such field; see --help for those there are"
    if first["type"] == "union_tag_not_found":
        kind = next(_KINDS[part] for part in parts if part in _KINDS)
        message = f'has no kind; give one, such as kind = "{kind}"'
    if isinstance(value, str | int | float | bool | list) and first["type"] != "missing":
        field += f" = {value}"
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    text = f"{field}: {message}{more}" if field else f"{message}{more}"
    return " ".join(text.split())


def difference(one, other, name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first entry in which two trees differ, of dictionaries or settings."""
    one, other = (dataclasses.asdict(tree) if dataclasses.is_dataclass(tree) else tree for tree in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        inner = (difference(one.get(key), other.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return next((found for found in inner if found), None)
    return None if one == other else (name, one, other)


class _Help(argparse.RawDescriptionHelpFormatter):
    """The description as it is written; after each option its default, where its text does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        takes_none = not action.option_strings or action.nargs == 0 or action.required or default is argparse.SUPPRESS
        if takes_none or "default:" in text:
            return text
        shown = ",".join(map(str, default)) if isinstance(default, list) else default
        return f"{text} (default: {'none' if shown in (None, '') else str(shown).replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are ValueErrors of one line, in place of argparse's usage text."""

    def __init__(self, name: str, description: str, **more):
        super().__init__(name, description=description, formatter_class=_Help, allow_abbrev=False, **more)

    def error(self, message: str):
        """Raise what argparse complains of."""
        raise ValueError(f"{message}; see --help")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but `--field value` of an unknown flag stays together, wherever it stands.

        argparse would take the value for the file that a script is about.
        """
        own, others, words = [], [], iter(sys.argv[1:] if args is None else map(str, args))
        for word in words:
            flag, equals, _ = word.partition("=")
            known = not flag.startswith("--") or flag == "--" or flag in self._option_string_actions
            (own if known else others).append(word)
            if not known and not equals:
                others.extend(itertools.islice(words, 1))
        given, rest = super().parse_known_args(own, namespace)
        return given, rest + others


def at_least(least: int) -> Callable[[str], int]:
    """A converter for argparse: whole numbers from `least` on that fit into 32 bits."""

    def convert(text: str) -> int:
        if not (text.isdecimal() and len(text) < 20 and least <= int(text) < 2**31):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} on, under 2^31")
        return int(text)

    return convert


def place(text: str) -> Path:
    """For argparse: the name of a file or folder that can be one."""
    parts = Path(text).parts
    if not text or not text.isprintable() or len(text) > 4000 or any(len(os.fsencode(part)) > 255 for part in parts):
        raise argparse.ArgumentTypeError(f"{ascii(text)[:60]} is no name of a file: empty, too long or not printable")
    return Path(text)


def seconds(text: str) -> float:
    """For argparse: a time [s], not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 on")
    return value
