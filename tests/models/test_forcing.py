"""Parameters that change with time: values, extremes, refusals."""

import numpy as np
import pytest
from pydantic import ValidationError

from jaxda.models.forcing import LineConfig, SeasonConfig


def test_lines_join_the_points_and_stay_where_they_end():
    line = LineConfig(days=(0.0, 100.0, 150.0), values=(30.0, 24.0, 26.0))
    days = [-5.0, 0.0, 50.0, 100.0, 125.0, 150.0, 1e4]
    np.testing.assert_allclose(line.at(days), [30.0, 30.0, 27.0, 24.0, 25.0, 26.0, 26.0], rtol=1e-14)
    assert line.at(50.0) == pytest.approx(27.0)
    assert line.extremes == (24.0, 30.0)


@pytest.mark.parametrize("ends", [((), ()), ((0.0, 90.0), (2.0, 5.0))])
def test_a_day_given_twice_is_a_switch(ends):
    first, last = ([pair[:1] for pair in ends], [pair[1:] for pair in ends])
    days, values = ((*a, *middle, *b) for a, middle, b in zip(first, ((50.0, 50.0), (2.0, 5.0)), last, strict=True))
    line = LineConfig(days=days, values=values)
    for days in ([49.999, 50.0, 60.0], np.linspace(49.0, 51.0, 101)):  # few and many
        np.testing.assert_allclose(line.at(days), np.where(np.asarray(days) < 50.0, 2.0, 5.0), rtol=1e-14)


def test_a_season_swings_around_its_mean():
    season = SeasonConfig(mean=10.0, amplitude=4.0, period_days=80.0)
    np.testing.assert_allclose(season.at([0.0, 20.0, 40.0, 60.0, 100.0]), [10.0, 14.0, 10.0, 6.0, 14.0], rtol=1e-14)
    later = SeasonConfig(mean=10.0, amplitude=-4.0, period_days=80.0, phase=0.25)
    np.testing.assert_allclose(later.at([0.0, 40.0]), [6.0, 14.0], rtol=1e-14)
    assert season.extremes == later.extremes == (6.0, 14.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"days": (0.0, 9.0), "values": (1.0,)}, "2 days for 1 values; give one for one"),
        ({"days": (9.0, 3.0), "values": (1.0, 2.0)}, "days: 3 comes after 9; give them in order"),
        ({"days": (), "values": ()}, "at least 1 item"),
        ({"days": (0.0,), "values": (np.inf,)}, "finite"),
    ],
)
def test_lines_that_are_none_are_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        LineConfig(**given)
