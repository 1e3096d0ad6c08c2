"""Scripts as modules, and their command lines as functions."""

import contextlib
import importlib.util
import io
from pathlib import Path

import pytest

from jaxda.settings import Parser

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name):
    """The module of scripts/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module, *words):
    """Exit status, standard output and standard error of a script's command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = module.main([str(word) for word in words])
    return status, out.getvalue(), err.getvalue()


class Asked(BaseException):
    """The parser of a script, caught when it is used; no script catches this."""


def parser_of(name):
    """The parser of a script."""

    def caught(self, *_):
        raise Asked(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_known_args", caught)
        with pytest.raises(Asked) as asked:
            call(script(name))
    return asked.value.args[0]
