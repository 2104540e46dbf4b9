"""Outputs that are numbers, trained by the mean square error: what regression, forecasting and reconstruction share.

The targets are one or more fields of a sample. The network gives one output for each of them, of the same size but of
any shape; a single output may be a tensor by itself. The mean square error of a row is minus the logarithm of its
probability under a normal distribution (up to a constant), so the Fisher information is known.

Letters: B rows, K numbers in all targets of a row.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from drb.data.datasets import Source
from drb.data.scenarios.task import Task
from drb.training.objectives.objective import Metric, Objective, Sums
from drb.types import Minibatch


class SquaredLoss(Objective):
    """Numbers by their mean square error over all targets of a row."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("error", higher_is_better=False, has_baseline=True),)
    """error: the mean square error."""

    @abc.abstractmethod
    def targets(self, batch: Minibatch) -> Tensor:
        """All targets of each row, one behind the other: float32 [B, K]."""

    def num_outputs(self, task: Task) -> int | None:
        """K: as many outputs as the targets have numbers."""
        return self.max_columns(task.train.gather(np.zeros(1, np.int64)), 0)

    def max_columns(self, example: Minibatch, num_classes: int) -> int:
        return self.targets(example).shape[1]

    def row_losses(self, outputs: Any, batch: Minibatch) -> Tensor:
        return self.squares(outputs, batch).mean(dim=1)

    def squares(self, outputs: Any, batch: Minibatch) -> Tensor:
        """The square of each number's error: float32 [B, K].

        Raises:
            ValueError: outputs that are not as many numbers as the targets.
        """
        flat, targets = self.flatten(outputs), self.targets(batch)
        if flat.shape != targets.shape:
            raise ValueError(
                f"the network gives {flat.shape[1]} numbers for a sample whose targets are {targets.shape[1]}; choose "
                "a model with as many outputs"
            )
        return (flat - targets).square()

    def fisher_terms(self, outputs: Any, batch: Minibatch) -> Tensor:
        """√(2 / K) times each output: a mean over K squares is a normal distribution with the variance K / 2."""
        flat = self.flatten(outputs)
        return flat * math.sqrt(2 / flat.shape[1])

    def scorer(self, source: Source, classes: Sequence[int] | None) -> Callable[[Any, Minibatch], Sums]:
        return self.sums

    def sums(self, outputs: Any, batch: Minibatch) -> Sums:
        """What the scores of a batch need."""
        losses = self.row_losses(outputs, batch)
        return {"error": losses.sum(), "count": torch.ones_like(losses).sum()}


def numbers_of(field: Tensor) -> Tensor:
    """The numbers of each row, also where a row is a single one: float32 [B, K]."""
    return (field.flatten(1) if field.dim() > 1 else field[:, None]).float()
