"""The largest r that is overlapped, computed from what rounds and steps take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drb.rehearsal.auto_exemplars import Line, is_overlapped, largest_overlapped

SECONDS = st.floats(0.0, 1.0)


def test_a_line_goes_through_its_points():
    line = Line.through((2, 0.1), (10, 0.5))
    assert line.at(2) == pytest.approx(0.1)
    assert line.at(10) == pytest.approx(0.5)


def test_noise_that_falls_with_r_counts_as_the_longer_time():
    assert Line.through((2, 0.5), (10, 0.1)) == Line(0.5)
    assert Line.through((1, 0.5), (1, 0.7)) == Line(0.7)


@pytest.mark.parametrize(
    ("round_s", "step_s", "expected"),
    [
        (Line(0.001, 0.0001), Line(1.0), 64),  # far shorter than a step
        (Line(0.1, 0.1), Line(1.0), 7),  # 0.1 + 0.1 r <= 0.8
        (Line(0.1, 0.1), Line(1.0, 0.05), 11),  # steps grow, too: 0.1 + 0.1 r <= 0.8 + 0.04 r
        (Line(0.79, 0.1), Line(1.0), 0),
        (Line(2.0), Line(1.0), 0),
        (Line(2.0, 0.01), Line(1.0, 0.1), 64),  # only large r: steps outgrow rounds
    ],
)
def test_the_largest_overlapped_r(round_s, step_s, expected):
    assert largest_overlapped(round_s, step_s, 64) == expected


@given(SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 200))
def test_it_is_overlapped_and_the_next_one_is_not(start, slope, step, step_slope, most):
    round_s, step_s = Line(start, slope), Line(step, step_slope)
    found = largest_overlapped(round_s, step_s, most)
    assert 0 <= found <= most
    overlapped = [r for r in range(1, most + 1) if is_overlapped(r, round_s, step_s)]
    assert abs(found - max(overlapped, default=0)) <= 1  # rounding of floats at the very edge
