"""Proportions that follow a list, or the accuracies of tasks: what they weigh, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from drb.sampling.proportions import PROPORTIONS, Proportions
from drb.sampling.proportions.base import StratumWeights


def schedule(**options: Any) -> Any:
    return PROPORTIONS.build("schedule", options)


def weights(proportions: Proportions, strata: list[int], sizes: list[int], step: int = 0) -> list[float]:
    assert isinstance(proportions, StratumWeights)
    return proportions.weights(np.array(strata), np.array(sizes), step).tolist()


def test_an_entry_holds_for_its_task() -> None:
    proportions = schedule(shares=[[1], [1, 3], [0, 2, 1]])
    assert proportions.needs_tasks
    expected = [([0], [1]), ([0, 1], [1, 3]), ([0, 1, 2], [0, 2, 1])]
    for task, (strata, shares) in enumerate(expected):
        proportions.begin_task(task, ())
        assert weights(proportions, strata, [5] * len(strata), step=100) == shares


def test_an_entry_holds_for_its_steps_and_for_the_strata_that_are_named() -> None:
    proportions = schedule(shares=[[1, 0], [1, 3]], strata=[7, -2], by="step", every=10)
    assert not proportions.needs_tasks
    strata, sizes = [-2, 3, 7], [4, 4, 4]
    assert weights(proportions, strata, sizes, step=9) == [0, 0, 1]
    assert weights(proportions, strata, sizes, step=10) == [3, 0, 1]


def test_a_stratum_may_become_empty_but_not_begin_so() -> None:
    proportions = schedule(shares=[[1, 1], [1, 1]])
    assert weights(proportions, [0, 1], [3, 1]) == [1, 1]
    assert weights(proportions, [0, 1], [3, 0]) == [1, 1]
    resumed = schedule(shares=[[1, 1], [1, 1]])
    resumed.load_state_dict(proportions.state_dict())
    assert weights(resumed, [0], [3]) == [1]
    proportions.begin_task(1, ())
    with pytest.raises(ValueError, match="entry 2 of the schedule gives stratum 1 a share, and none of the stored"):
        weights(proportions, [0, 1], [3, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": []}, "schedule.shares must have an entry for each task or step, got none"),
        ({"shares": [[1], [0, 0]]}, "entry 2 of schedule.shares must have shares of at least 0, not all of them 0"),
        ({"shares": [[]]}, r"entry 1 of schedule.shares must have shares of at least 0, .* got \[\]"),
        ({"shares": [[1, -1]]}, "entry 1 of schedule.shares must have shares of at least 0"),
        ({"shares": [[float("nan")]]}, "entry 1 of schedule.shares must have shares of at least 0"),
        ({"shares": [[float("inf")]]}, "entry 1 of schedule.shares must have shares of at least 0"),
        ({"shares": [1, 2]}, "schedule.shares must be a list, each item a list, each item a number"),
        ({"shares": [[1, 2]], "strata": [4]}, "entry 1 of schedule.shares has 2 shares for the 1 strata"),
        ({"shares": [[1, 2]], "strata": [4, 4]}, r"schedule.strata must name each stratum once, got \[4, 4\]"),
        ({"shares": [[1]], "by": "epoch"}, "schedule.by must be task or step, got 'epoch'"),
        ({"shares": [[1]], "every": 0}, "schedule.every must be at least 1, got 0"),
        ({}, "the proportions schedule needs the option shares"),
    ],
)
def test_a_wrong_list_is_refused_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**options)


def test_a_list_that_is_too_short_is_refused_when_its_end_is_reached() -> None:
    with pytest.raises(ValueError, match="the schedule has 2 entries for 2 tasks, and task 3 has begun: add entries"):
        schedule(shares=[[1], [1, 1]]).begin_task(2, ())
    with pytest.raises(ValueError, match="the schedule has 1 entry for 10 steps, and step 11 has begun"):
        weights(schedule(shares=[[1]], by="step", every=10), [0], [1], step=10)


def test_an_unknown_stratum_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"gives stratum 2 a share, .*; there are \[0, 1\]: leave it out, or give it 0"
    ):
        weights(schedule(shares=[[1, 0, 1]]), [0, 1], [4, 4])


HISTORY = [[0.99], [0.97, 0.98], [0.97, 0.94, 0.9]]


@pytest.mark.parametrize(
    ("name", "threshold", "fell"),
    [
        ("global_drop", 0.98, [True, True, False]),  # .97 / .99 = .9798, .94 / .98 = .959; the last is its own best
        ("global_drop", 0.97, [False, True, False]),
        ("local_drop", 0.98, [False, True, False]),  # .97 / .97, .94 / .98
        ("absolute_drop", 0.94, [False, True, True]),
    ],
)
def test_tasks_whose_accuracy_fell_share_alike(name: str, threshold: float, fell: list[bool]) -> None:
    proportions: Any = PROPORTIONS.build(name, {"threshold": threshold})
    assert proportions.fell(HISTORY).tolist() == fell
    assert proportions.needs_tasks
    proportions.begin_task(3, HISTORY)
    assert weights(proportions, [0, 1, 2, 3], [5, 5, 5, 1]) == [*map(float, fell), 0.0]


@pytest.mark.parametrize("name", ["global_drop", "local_drop", "absolute_drop"])
def test_where_nothing_fell_all_share_alike(name: str) -> None:
    proportions = PROPORTIONS.build(name, {"threshold": 0.5})
    proportions.begin_task(0, ())
    assert weights(proportions, [0], [5]) == [1]
    proportions.begin_task(3, HISTORY)
    assert weights(proportions, [0, 1, 2, 3], [5, 5, 5, 1]) == [1] * 4


def test_fallen_tasks_of_which_nothing_is_stored_are_told() -> None:
    proportions = PROPORTIONS.build("absolute_drop", {"threshold": 0.9})
    proportions.begin_task(3, HISTORY)
    with pytest.raises(ValueError, match=r"tasks \[2\] fell, and none of the stored exemplars is of them"):
        weights(proportions, [0, 1], [5, 5])
