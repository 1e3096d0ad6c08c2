"""`--help` of every script: each option with what it is, its unit and its default."""

import argparse
import re

import calling
import pytest

NAMES = sorted(path.stem for path in calling.SCRIPTS.glob("*.py"))


def takes_numbers(action):
    kind = action.type
    makes_numbers = getattr(kind, "__qualname__", "").split(".")[0] in ("at_least", "number", "numbers", "seconds")
    return kind in (int, float) or makes_numbers


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_is_with_unit_and_default(name):
    parser = calling.parser_of(name)
    text = parser.format_help()
    assert text.startswith("usage: ")
    assert f"scripts/{name}.py" in text, "no example of how to call it"
    assert "Exit status" in text
    formatter = parser.formatter_class("x")
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        own = f"{name} {action.option_strings or action.dest}"
        assert action.help, f"{own}: no help"
        said = formatter._expand_help(action)
        if takes_numbers(action):
            assert re.search(r"\[[\w/^ -]+\]", said), f"{own}: no unit in {said!r}"
        if action.option_strings and action.nargs != 0 and not action.required and action.default != argparse.SUPPRESS:
            assert "(default: " in said, f"{own}: no default in {said!r}"
            assert "%(" not in said
            shown = re.search(r"\(default: (.*?)\)", said).group(1)
            if isinstance(action.default, int | float):
                assert float(shown) == action.default, own
