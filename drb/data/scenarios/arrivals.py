"""Arrivals: a task for each part of the data set that came by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import Scenario, Task, hold_out
from drb.options import setting


class Arrivals(Scenario):
    """Bring the data in the parts in which it came (dataset=arrivals), each with its own test samples.

    rehearsed: how many of the first parts are no tasks, because their samples are rehearsed from (rehearsal.prefilled).
    """

    name = "arrivals"
    rehearsed: int = setting(0, at_least=0)

    @property
    def keeps_earlier_tasks(self) -> bool:
        return True

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        if not dataset.arrivals:
            raise ValueError("scenario=arrivals needs data that came in parts: choose dataset=arrivals")
        if self.rehearsed >= len(dataset.arrivals):
            raise ValueError(
                f"scenario.rehearsed must leave a part to train on, and is {self.rehearsed} of "
                f"{len(dataset.arrivals)}; name new files in dataset.files"
            )

    def __iter__(self) -> Iterator[Task]:
        before = self.dataset.arrivals[: self.rehearsed]
        train, test = sum(each.num_train for each in before), sum(each.num_test for each in before)
        for index, arrival in enumerate(self.dataset.arrivals[self.rehearsed :]):
            own = np.arange(train, train + arrival.num_train)
            tested = np.arange(test, test + arrival.num_test)
            train, test = train + arrival.num_train, test + arrival.num_test
            kept, held_out = hold_out(len(own), self.validation, self.seed, index)
            source = self.dataset.train
            yield Task(
                index=index,
                name=f"arrival {index + 1}",
                train=View(source, own[kept]),
                test=View(self.dataset.test, tested),
                validation=View(source, own[held_out]) if len(held_out) else None,
                classes=tuple(np.unique(source.labels[own]).tolist()),
            )
