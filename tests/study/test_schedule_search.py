"""The searches for a schedule of replay find what is planted in a table of outcomes, and count what they ask for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.schedule_search.policy import train_policy
from benchmarks.schedule_search.search import (
    Search,
    actions,
    equal_shares,
    follow,
    random_schedule,
    random_search,
    tree_search,
)
from benchmarks.schedule_search.stream import Outcome, Prefix, quotas
from drb.sampling.proportions.global_drop import GlobalDrop

BEST = ((1,), (0, 2), (3, 0, 0), (0, 1, 1, 2))


class Table:
    """A stream whose accuracy is the share of actions that are those of the best schedule. asked: all prefixes."""

    def __init__(self) -> None:
        self.asked: list[Prefix] = []

    def after(self, prefix: Prefix) -> Outcome:
        self.asked.append(prefix)
        value = np.mean([own == best for own, best in zip(prefix, BEST, strict=False)]) if prefix else 1.0
        return Outcome((float(value),) * (len(prefix) + 1), (float(value) / 2,) * (len(prefix) + 1))


def test_actions_are_all_ways_of_giving_as_many_parts_as_there_are_tasks() -> None:
    assert [len(actions(seen)) for seen in (1, 2, 3, 4)] == [1, 3, 10, 35]
    assert actions(2) == [(2, 0), (1, 1), (0, 2)]
    assert equal_shares() == ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("action", "expected"), [((1, 1, 1), [4, 3, 3]), ((0, 2), [0, 10]), ((2, 1, 0), [7, 3, 0]), ((1, 1, 1, 1), None)]
)
def test_quotas_sum_to_the_samples_and_follow_the_shares(action: tuple[int, ...], expected: list[int] | None) -> None:
    assert quotas(action, 10) == (expected or [3, 3, 2, 2])


def test_tree_search_finds_more_than_random_search_does_with_as_many_schedules() -> None:
    tree = tree_search(Search(Table()), 150, seed=0)
    chance = random_search(Search(Table()), 150, seed=0)
    assert tree.best[2] == BEST
    assert tree.best[:2] == (1.0, 0.5)
    assert chance.best[0] < 1
    assert len(tree.asked) < len(chance.asked) <= 150 + 1 + 1 + 3 + 30  # every inner prefix is trained once


def test_a_search_counts_each_prefix_once() -> None:
    search = Search(Table())
    search.try_schedule(equal_shares())
    search.try_schedule(equal_shares())
    assert len(search.asked) == 5
    search.try_schedule((*equal_shares()[:3], (4, 0, 0, 0)))
    assert len(search.asked) == 6


def test_heuristics_are_followed_by_the_accuracies_so_far() -> None:
    class Falling(Table):
        def after(self, prefix: Prefix) -> Outcome:
            return Outcome((0.5, *(0.9,) * len(prefix)) if prefix else (0.9,), (0.0,) * (len(prefix) + 1))

    assert follow(Search(Falling()), GlobalDrop()).best[2] == ((1,), (1, 0), (1, 0, 0), (1, 0, 0, 0))


@pytest.mark.full  # 20 seconds of learning
def test_a_policy_learns_what_pays_and_uses_it_on_a_stream_that_it_has_not_seen() -> None:
    policy, trainings = train_policy([Table(), Table()], 60, seed=0)
    assert 5 < trainings <= 60 * 5
    schedule = policy.run(Table())
    assert schedule == policy.run(Table())
    agreeing = sum(own == best for own, best in zip(schedule, BEST, strict=True))
    rng = np.random.default_rng(0)
    others = [random_schedule(rng) for _ in range(200)]
    chance = np.mean([sum(own == best for own, best in zip(each, BEST, strict=True)) for each in others])
    assert agreeing > chance + 0.5
