"""Arrivals: a task for each part of the data set that came by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import Scenario, Task, hold_out


class Arrivals(Scenario):
    """Bring the data in the parts in which it came (dataset=arrivals), each with its own test samples."""

    name = "arrivals"

    @property
    def keeps_earlier_tasks(self) -> bool:
        return True

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        if not dataset.arrivals:
            raise ValueError("scenario=arrivals needs data that came in parts: choose dataset=arrivals")

    def __iter__(self) -> Iterator[Task]:
        train = test = 0
        for index, arrival in enumerate(self.dataset.arrivals):
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
