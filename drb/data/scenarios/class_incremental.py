"""Class-incremental: each task brings classes that were not there before, and the task is never told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from drb.data.datasets import Dataset, Source, View
from drb.data.scenarios.task import Scenario, Task, hold_out
from drb.options import setting
from drb.seeding import permutation
from drb.types import Int64Array

_LISTED_AT_MOST = 10


class ClassIncremental(Scenario):
    """Bring new classes with each task, `classes_per_task` of them, and never tell the task.

    classes_per_task: the last task has fewer if they do not divide; None spreads the classes over num_tasks.
    num_tasks: stop after so many; None goes on to the last class.

    With class_order=shuffled, labels are renumbered in order of appearance, so that a head grows by exactly
    the new classes; task names keep the dataset's classes, and model.json names the class of each output.
    """

    name = "class_incremental"
    classes_per_task: int | None = setting(None, at_least=1)
    num_tasks: int | None = setting(None, at_least=1)
    class_order: str = setting("natural", one_of=("natural", "shuffled"))

    @property
    def keeps_earlier_tasks(self) -> bool:
        return self.classes_per_task is not None  # else the classes are spread anew

    @property
    def class_order_of_outputs(self) -> Int64Array | None:
        return None if self._label_map is None else self._order

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        self._groups = _group_classes(dataset.num_classes, self.classes_per_task, self.num_tasks)
        self._order = np.arange(dataset.num_classes)
        self._label_map: Int64Array | None = None
        if self.class_order == "shuffled":
            self._order = permutation(dataset.num_classes, seed, "class order")
            self._label_map = np.argsort(self._order)

    def __iter__(self) -> Iterator[Task]:
        return (self._task(index, group) for index, group in enumerate(self._groups))

    def _task(self, index: int, group: range) -> Task:
        classes = self._order[group.start : group.stop]
        chosen = np.flatnonzero(np.isin(self.dataset.train.labels, classes))
        if len(chosen) == 0:
            raise ValueError(
                f"task {index + 1} has no training samples: the dataset has none of classes {classes.tolist()}"
            )
        train, held_out = hold_out(len(chosen), self.validation, self.seed, index)
        tested = np.flatnonzero(np.isin(self.dataset.test.labels, classes))
        return Task(
            index=index,
            name=_title(classes.tolist(), self.dataset.identity.classes),
            train=self._view(self.dataset.train, chosen[train], index),
            test=self._view(self.dataset.test, tested, index),
            validation=self._view(self.dataset.train, chosen[held_out], index) if len(held_out) else None,
            classes=tuple(group) if self._label_map is not None else tuple(sorted(classes.tolist())),
        )

    def _view(self, source: Source, indices: Int64Array, index: int) -> View:
        return View(source, indices, label_map=self._label_map, task=index if self.task_aware else None)


def _title(classes: list[int], names: Sequence[str]) -> str:
    """A task's name: its classes by name, or by number where they have none; of many the first and the last."""
    called = [names[label] if label < len(names) else str(label) for label in classes]
    if len(called) > _LISTED_AT_MOST:
        return f"classes {called[0]},{called[1]},…,{called[-1]}: {len(called)} of them"
    return f"classes {','.join(called)}"


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
