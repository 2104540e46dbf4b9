"""A strategy is the base of a method: what is trained on, and the main loss. Terms are added to it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from drb.training.method.batch import Batch
from drb.training.method.hooks import Hooks


class Strategy(Hooks):
    """The base of a method. Its default loss is the objective's mean over all rows."""

    claims: ClassVar[frozenset[str]] = frozenset({"loss"})

    def loss(self, batch: Batch) -> Tensor:
        return batch.mean_loss(batch.outputs())
