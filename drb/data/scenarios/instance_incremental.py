"""Instance-incremental: new samples of the same classes, a disjoint random chunk of the data per task."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import Scenario, Task, hold_out
from drb.options import setting
from drb.seeding import permutation


class InstanceIncremental(Scenario):
    """Bring new samples of the same classes: `num_tasks` random chunks of the training data, equal to within one.

    Every task has the whole test set.
    """

    name = "instance_incremental"
    divides_by_count = True
    num_tasks: int = setting(5, at_least=1)

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        if self.num_tasks > len(dataset.train):
            raise ValueError(
                f"num_tasks must be in [1, {len(dataset.train)}], the training samples, got {self.num_tasks}"
            )

    def __iter__(self) -> Iterator[Task]:
        return map(self._task, range(self.num_tasks))

    def _task(self, index: int) -> Task:
        source = self.dataset.train
        chunk = np.sort(permutation(len(source), self.seed, "chunks")[index :: self.num_tasks])
        train, held_out = hold_out(len(chunk), self.validation, self.seed, index)
        return Task(
            index=index,
            name=f"chunk {index + 1}",
            train=View(source, chunk[train]),
            test=self.dataset.test,
            validation=View(source, chunk[held_out]) if len(held_out) else None,
            classes=tuple(range(self.dataset.num_classes)),
        )
