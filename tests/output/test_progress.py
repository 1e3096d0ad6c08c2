"""jaxda.output.progress: bars with scores, lines of log files, the line of a real-time run."""

import io

import pytest
from rich.console import Console

from jaxda import twin
from jaxda.output import report
from jaxda.output.progress import bar, status_line
from jaxda.parallel import launch


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


def said_by(work, **more):
    """What a bar of 4 cycles says of some work: a function of `advance`."""
    file = io.StringIO()
    console = Console(file=file, width=120, **more)
    with bar("cycles", 4, "cycles", console, every=0.0) as advance:
        work(advance)
    return file.getvalue()


def two_parts(advance):
    advance(1, "LETKF", "RMSE 0.5 [K]")
    advance(3, "EnSF", "RMSE 0.7 [K]")


def test_a_bar_shows_amount_rate_rest_and_the_last_scores():
    said = said_by(two_parts, force_terminal=True, color_system=None)
    assert "EnSF" in said
    assert "4/4 cycles" in said
    assert "RMSE 0.7 [K]" in said
    assert "0:00:00" in said


def test_a_log_file_has_a_line_now_and_then_and_one_at_the_end():
    first, last = said_by(two_parts, force_terminal=False).splitlines()
    assert first.startswith("LETKF: 1/4 cycles, ")
    assert first.endswith("remain, RMSE 0.5 [K]")
    assert last.startswith("cycles: 4 cycles in ")


def test_other_processes_than_the_first_are_silent(monkeypatch):
    monkeypatch.setattr(launch, "is_first", lambda: False)
    assert said_by(two_parts, force_terminal=True) == ""


def test_scores_in_a_few_words():
    others = {name: [9.0, 9.0] for name in twin.Scores._fields}
    scores = twin.Scores(**others | {"rmse_a": [0.25, 0.75], "spread_a": [0.25, 0.25]})
    assert report.last_scores(scores, "K") == "RMSE 0.500, spread 0.250 K"
    assert report.last_scores(scores, "1") == "RMSE 0.500, spread 0.250"
