"""The figure of the loop: every part of it is there, none over another."""

import itertools

from jaxda.output import realtime_plots


def test_the_loop_is_drawn(tmp_path):
    realtime_plots.loop(tmp_path / "loop.png")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_boxes_do_not_overlap():
    for one, other in itertools.combinations(realtime_plots.BOXES.values(), 2):
        apart = [abs(a - b) > (m + n) / 2 for a, b, m, n in zip(one[0], other[0], one[1], other[1], strict=True)]
        assert any(apart)
