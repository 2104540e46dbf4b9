"""Regression: one or more numbers per sample, by their mean square error."""

from __future__ import annotations

from torch import Tensor

from drb.training.objectives.squared_loss import SquaredLoss, numbers_of
from drb.types import Minibatch


class Regression(SquaredLoss):
    """Predict the numbers of one field.

    input:  the field that the network takes
    target: the field of numbers, of any shape
    """

    name = "regression"
    input: str = "image"
    target: str = "target"

    def inputs(self, batch: Minibatch) -> Tensor:
        return self.field("input", batch)

    def targets(self, batch: Minibatch) -> Tensor:
        return numbers_of(self.field("target", batch))
