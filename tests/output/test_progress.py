"""jaxda.output.progress: the line of a real-time run."""

import io

import pytest
from rich.console import Console

from jaxda.output.progress import status_line


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_is_rewritten_on_a_terminal_and_kept_in_a_file(terminal):
    file = io.StringIO()
    with status_line(Console(file=file, force_terminal=terminal, width=60)) as show:
        show("waiting for [0]", lasts=False)
        show("cycle 0 " + "x" * 100)
        show("waiting for 1", lasts=False)
        show("cycle 1")
    said = file.getvalue()
    if terminal:
        assert "waiting for [0]" in said
        assert "waiting for 1; cycle 0 x" in said  # what was last stays in sight
        assert said.count("\n") <= 1  # one line, too long or not
        assert "x" * 60 not in said
    else:
        assert said == f"cycle 0 {'x' * 100}\ncycle 1\n"
