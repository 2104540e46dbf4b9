"""Class-incremental: each task brings classes that were not there before, and the task is never told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np

from drb.data.datasets import Dataset, Source, View
from drb.data.scenarios.task import Task, check_fraction, hold_out
from drb.seeding import permutation
from drb.types import Int64Array


class ClassIncremental:
    """Tasks of `classes_per_task` classes each, until the classes (or `num_tasks`) run out.

    With class_order=shuffled, labels are renumbered in order of appearance, so that a head grows by exactly
    the new classes; task names keep the dataset's class numbers.
    """

    task_aware = False

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        validation: float = 0.0,
        classes_per_task: int | None = None,
        num_tasks: int | None = None,
        class_order: Literal["natural", "shuffled"] = "natural",
    ) -> None:
        """
        Args:
            classes_per_task: the last task has fewer if they do not divide; None spreads them over num_tasks.
            num_tasks: stop after so many; None goes on to the last class.
            validation: share of each task's training samples that is held out.
        Raises:
            ValueError: neither size is given, or they do not fit the dataset's classes.
        """
        if class_order not in ("natural", "shuffled"):
            raise ValueError(f"class_order must be natural or shuffled, got {class_order!r}")
        self._dataset = dataset
        self._seed = seed
        self._validation = check_fraction(validation)
        self._groups = _group_classes(dataset.num_classes, classes_per_task, num_tasks)
        self._order = np.arange(dataset.num_classes)
        self._label_map: Int64Array | None = None
        if class_order == "shuffled":
            self._order = permutation(dataset.num_classes, seed, "class order")
            self._label_map = np.argsort(self._order)

    def __iter__(self) -> Iterator[Task]:
        return (self._task(index, group) for index, group in enumerate(self._groups))

    def _task(self, index: int, group: range) -> Task:
        classes = self._order[group.start : group.stop]
        chosen = np.flatnonzero(np.isin(self._dataset.train.labels, classes))
        if len(chosen) == 0:
            raise ValueError(
                f"task {index} has no training samples: the dataset has none of classes {classes.tolist()}"
            )
        train, held_out = hold_out(len(chosen), self._validation, self._seed, index)
        tested = np.flatnonzero(np.isin(self._dataset.test.labels, classes))
        return Task(
            index=index,
            name="classes " + ",".join(map(str, classes.tolist())),
            train=self._view(self._dataset.train, chosen[train], index),
            test=self._view(self._dataset.test, tested, index),
            validation=self._view(self._dataset.train, chosen[held_out], index) if len(held_out) else None,
            classes=tuple(group) if self._label_map is not None else tuple(sorted(classes.tolist())),
        )

    def _view(self, source: Source, indices: Int64Array, index: int) -> View:
        return View(source, indices, label_map=self._label_map, task=index if self.task_aware else None)


def _group_classes(num_classes: int, classes_per_task: int | None, num_tasks: int | None) -> list[range]:
    """Consecutive ranges of positions in the class order, one per task."""
    if classes_per_task is None and num_tasks is None:
        raise ValueError("a class-incremental scenario needs classes_per_task or num_tasks, got neither")
    if num_tasks is not None and not 1 <= num_tasks <= num_classes:
        raise ValueError(f"num_tasks must be in [1, {num_classes}], the number of classes, got {num_tasks}")
    if classes_per_task is None:
        assert num_tasks is not None
        bounds = [round(task * num_classes / num_tasks) for task in range(num_tasks + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(bounds)]
    if not 1 <= classes_per_task <= num_classes:
        raise ValueError(
            f"classes_per_task must be in [1, {num_classes}], the classes there are, got {classes_per_task}"
        )
    available = -(-num_classes // classes_per_task)
    if num_tasks is not None and num_tasks > available:
        raise ValueError(
            f"{num_tasks} tasks of {classes_per_task} classes do not fit the dataset's {num_classes} classes; "
            f"num_tasks can be at most {available}"
        )
    starts = range(0, num_classes, classes_per_task)[:num_tasks]
    return [range(start, min(start + classes_per_task, num_classes)) for start in starts]
