"""Searches for a schedule of replay: Monte Carlo tree search, random schedules, and single ones to compare with.

The tree's nodes are prefixes of schedules; a leaf is a whole schedule, and its reward the mean validation accuracy
after the last task. Every search counts the task trainings that it alone would need: the distinct prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Protocol

import numpy as np

from benchmarks.schedule_search.stream import NUM_TASKS, Action, Outcome, Prefix
from drb.sampling.proportions.drop import Drop

EXPLORATION = 0.1  # C in UCT


class Trainable(Protocol):
    """What can be asked what a network can do after a prefix; `drb` trains it, tests have a table."""

    def after(self, prefix: Prefix) -> Outcome: ...


@dataclass
class Search:
    """A search in progress: asks for prefixes, counts them, and remembers the best whole schedule.

    best: (reward, accuracy, schedule); its reward decides. asked: the distinct prefixes, which are task trainings.
    """

    stream: Trainable
    asked: set[Prefix] = field(default_factory=set)
    best: tuple[float, float, Prefix] = (-math.inf, math.nan, ())

    def try_schedule(self, schedule: Prefix) -> float:
        """The reward of a whole schedule."""
        self.asked |= {schedule[:length] for length in range(len(schedule) + 1)}
        outcome = self.stream.after(schedule)
        if outcome.reward > self.best[0]:
            self.best = outcome.reward, outcome.accuracy, schedule
        return outcome.reward


def actions(num_seen: int) -> list[Action]:
    """Every way of giving num_seen parts to as many tasks."""
    chosen = combinations_with_replacement(range(num_seen), num_seen)
    return [tuple(np.bincount(each, minlength=num_seen).tolist()) for each in chosen]


def equal_shares(num_tasks: int = NUM_TASKS) -> Prefix:
    """Each task so far gives as many."""
    return tuple((1,) * seen for seen in range(1, num_tasks))


def random_schedule(rng: np.random.Generator, prefix: Prefix = (), num_tasks: int = NUM_TASKS) -> Prefix:
    """The prefix, gone on with at random."""
    for seen in range(len(prefix) + 1, num_tasks):
        choices = actions(seen)
        prefix = (*prefix, choices[int(rng.integers(len(choices)))])
    return prefix


def random_search(search: Search, count: int, seed: int) -> Search:
    """Try so many random schedules."""
    rng = np.random.default_rng((seed, 1))
    for _ in range(count):
        search.try_schedule(random_schedule(rng))
    return search


def follow(search: Search, heuristic: Drop) -> Search:
    """Try the schedule that one of drb's heuristics makes as it goes, of the validation accuracies so far."""
    schedule: Prefix = ()
    history: list[Sequence[float]] = []
    while len(schedule) < NUM_TASKS - 1:
        search.asked.add(schedule)
        history.append(search.stream.after(schedule).validation)
        fell = heuristic.fell(history)
        schedule = (*schedule, tuple((fell if fell.any() else ~fell).astype(int).tolist()))
    search.try_schedule(schedule)
    return search


@dataclass
class _Node:
    """What the tree knows of a prefix: visits, the largest reward below, and the actions that were tried."""

    visits: int = 0
    largest: float = -math.inf
    children: dict[Action, _Node] = field(default_factory=dict)

    def upper_bound(self, visits_of_parent: int) -> float:
        return self.largest + EXPLORATION * math.sqrt(2 * math.log(visits_of_parent) / self.visits)


def tree_search(
    search: Search, iterations: int, seed: int, on_iteration: Callable[[Search], None] | None = None
) -> Search:
    """UCT over prefixes: descend to a node with an untried action, try it, and go on at random."""
    rng, root = np.random.default_rng((seed, 2)), _Node()
    for _ in range(iterations):
        path, prefix = [root], ()
        while len(prefix) < NUM_TASKS - 1:
            node = path[-1]
            untried = [action for action in actions(len(prefix) + 1) if action not in node.children]
            if untried:
                action = untried[int(rng.integers(len(untried)))]
                node.children[action] = _Node()
            else:
                action = max(node.children, key=lambda each: node.children[each].upper_bound(node.visits))
            prefix = (*prefix, action)
            path.append(node.children[action])
            if untried:
                break
        reward = search.try_schedule(random_schedule(rng, prefix))
        for node in path:
            node.visits += 1
            node.largest = max(node.largest, reward)
        if on_iteration is not None:
            on_iteration(search)
    return search
