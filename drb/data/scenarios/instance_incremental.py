"""Instance-incremental: new samples of the same classes, a disjoint random chunk of the data per task."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import Task, check_fraction, hold_out
from drb.seeding import permutation


class InstanceIncremental:
    """`num_tasks` chunks of the training samples, equal to within one; every task has the whole test set."""

    task_aware = False

    def __init__(self, dataset: Dataset, *, seed: int, validation: float = 0.0, num_tasks: int) -> None:
        """
        Raises:
            ValueError: fewer training samples than tasks.
        """
        if not 1 <= num_tasks <= len(dataset.train):
            raise ValueError(f"num_tasks must be in [1, {len(dataset.train)}], the training samples, got {num_tasks}")
        self._dataset = dataset
        self._seed = seed
        self._validation = check_fraction(validation)
        self._num_tasks = num_tasks

    def __iter__(self) -> Iterator[Task]:
        return map(self._task, range(self._num_tasks))

    def _task(self, index: int) -> Task:
        source = self._dataset.train
        chunk = np.sort(permutation(len(source), self._seed, "chunks")[index :: self._num_tasks])
        train, held_out = hold_out(len(chunk), self._validation, self._seed, index)
        return Task(
            index=index,
            name=f"chunk {index}",
            train=View(source, chunk[train]),
            test=self._dataset.test,
            validation=View(source, chunk[held_out]) if len(held_out) else None,
            classes=tuple(range(self._dataset.num_classes)),
        )
