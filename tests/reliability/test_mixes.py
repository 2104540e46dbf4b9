"""Runs that mix sources are killed at random, and go on on other ranks with other shares: `python -m faults mixes`."""

from __future__ import annotations

import pytest

from faults.mixes import campaign


@pytest.mark.parametrize(
    ("runs", "kills"), [(1, 5), pytest.param(10, 10, marks=[pytest.mark.full, pytest.mark.timeout(400)])]
)
def test_the_audit_says_what_was_trained_on(runs, kills):
    outcome = campaign(runs, kills, seed=1)
    assert outcome.holds, outcome
    assert outcome.kills == runs * kills
    assert outcome.steps > kills
