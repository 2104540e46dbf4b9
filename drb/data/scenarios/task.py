"""What a stream is made of: tasks, produced one at a time when they are asked for."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from drb.data.datasets import Dataset, Source
from drb.data.mix.following import Plan, Wanted, begin
from drb.data.mix.mix import Mix
from drb.options import setting
from drb.seeding import permutation
from drb.types import Int64Array
from drb.variant import Variant


@dataclass(frozen=True)
class TaskMix:
    """What a mixed task is trained on: its sources, which lie one behind the other, by their shares.

    epoch: samples of an epoch. schedule: other shares after so many optimisation steps, {steps: {source: share}}.
    origins: of each source, the files that its samples are from and how many each has, as far as that is known.
    """

    sources: tuple[Wanted, ...]
    epoch: int
    schedule: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    origins: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)

    def begin(self, rows_per_step: int, seed: int) -> Mix:
        """The order of the task, with so many samples in an optimisation step on all ranks together.

        Raises:
            ValueError: shares that make no mix, or an unknown source in the schedule.
        """
        return begin(Plan(self.sources, rows_per_step, self.schedule, self.epoch), seed)


@dataclass(frozen=True)
class Task:
    """One stretch of the stream.

    index counts from 0 and is for programs; people are shown `number`. train, test and validation (held out of train)
    are disjoint in samples, and train's sample ids occur in no other task. classes are the labels that occur in it.
    mix: the sources that train consists of, if an epoch is not all of it but has a share of each.
    """

    index: int
    name: str
    train: Source
    test: Source
    validation: Source | None
    classes: tuple[int, ...]
    mix: TaskMix | None = None

    @property
    def number(self) -> int:
        """1, 2, …: what logs, tables and trackers call the task."""
        return self.index + 1

    def __str__(self) -> str:
        return f"task {self.number} ({self.name})"


class Scenario(Variant):
    """Turns a dataset into a stream of tasks: iterate to get it.

    It may be endless, nobody asks for its length, and iterating again repeats it.

    task_aware: the task is known at test time and minibatches carry `task`.
    divides_by_count: which samples a task has depends on how many there are in all, so that a run cannot go on with
        more or fewer.

    validation: the share of each task's training samples that is held out and evaluated, too.
    """

    task_aware: ClassVar[bool] = False
    divides_by_count: ClassVar[bool] = False
    validation: float = setting(0.0, at_least=0, below=1)

    @property
    def keeps_earlier_tasks(self) -> bool:
        """Whether the tasks stay what they are if `num_tasks` grows, so that a run can go on with more of them."""
        return False

    @property
    def class_order_of_outputs(self) -> Int64Array | None:
        """int64 [classes], the dataset's label of what tasks call class 0, 1, …; None if labels stay as they are."""
        return None

    def begin(self, dataset: Dataset, seed: int) -> None:
        """Called once, before the first task; the same on all ranks.

        Raises:
            ValueError: the options make no stream of this dataset.
        """
        self.dataset = dataset
        self.seed = seed

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Task]:
        """The tasks in their order, each made when it is asked for."""


def hold_out(num_samples: int, fraction: float, seed: int, task: int) -> tuple[Int64Array, Int64Array]:
    """Positions to train on and to validate on: disjoint, sorted, together range(num_samples).

    A fraction above 0 holds out at least one sample and leaves at least one.
    """
    order = permutation(num_samples, seed, "validation", task)
    count = 0 if fraction == 0 else min(max(1, round(fraction * num_samples)), num_samples - 1)
    order[:count].sort()
    order[count:].sort()
    return order[count:], order[:count]
