"""Base plus new: in every epoch all of the new samples, and another exact part of the base."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import EpochShare, Scenario, Task, hold_out
from drb.options import setting
from drb.types import BoolArray
from drb.warn import warn_caller


class BasePlusNew(Scenario):
    """Train on all of the new samples in every epoch, with another part of the base, until the base is used up.

    The order is a formula of the seed and the step (docs/mix.md), the same on any number of ranks.

    new_classes: the classes that are new; [] takes the last part of dataset=arrivals.
    base_per_epoch: samples of the base in an epoch, at most all of it; None takes as many as there are new ones.
    """

    name = "base_plus_new"
    divides_by_count = True  # the order is a formula of the numbers of samples
    new_classes: list[int] = setting([], at_least=0)
    base_per_epoch: int | None = setting(None, at_least=1)

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        self._is_new = self._find_new(dataset)
        count = int(self._is_new.sum())
        if count in (0, len(self._is_new)):
            raise ValueError(
                f"scenario=base_plus_new needs new samples and older ones, and {count} of {len(self._is_new)} are new; "
                "choose scenario.new_classes, or give dataset.files a base before what is new"
            )

    def _find_new(self, dataset: Dataset) -> BoolArray:
        """Which training samples are new, bool [n]."""
        if self.new_classes:
            found: BoolArray = np.isin(dataset.train.labels, self.new_classes)
            return found
        if len(dataset.arrivals) < 2:
            raise ValueError(
                "scenario=base_plus_new must know what is new: give scenario.new_classes, or dataset=arrivals with at "
                "least two files"
            )
        return np.arange(len(dataset.train)) >= len(dataset.train) - dataset.arrivals[-1].num_train

    def __iter__(self) -> Iterator[Task]:
        source = self.dataset.train
        train, held_out = hold_out(len(source), self.validation, self.seed, 0)
        new, base = train[self._is_new[train]], train[~self._is_new[train]]
        if self.base_per_epoch is not None and self.base_per_epoch > len(base):
            warn_caller(
                f"scenario.base_per_epoch={self.base_per_epoch}, and the base has {len(base)}: all in every epoch"
            )
        per_epoch = min(self.base_per_epoch or len(new), len(base))
        yield Task(
            index=0,
            name="base and new",
            train=View(source, np.concatenate([new, base])),
            test=self.dataset.test,
            validation=View(source, held_out) if len(held_out) else None,
            classes=tuple(np.unique(source.labels).tolist()),
            mix=(EpochShare("new", len(new), len(new)), EpochShare("base", len(base), per_epoch)),
        )
