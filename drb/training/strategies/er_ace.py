"""ER-ACE (Caccia et al. 2022, arXiv 2104.05025): replay with an asymmetric cross-entropy.

New classes would push the outputs of old ones down, which no new row can need. So the cross-entropy of the new rows is
taken over the classes of the incoming minibatch alone, that of the exemplars over all classes; the loss is the sum of
both means. The classes of the minibatch are those of all ranks' rows: with each rank's own the loss would depend on
the number of ranks. With accumulated minibatches each has its own classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.strategies.strategy import Strategy


class AsymmetricCrossEntropy(Strategy):
    """Replay in which new rows compare only the classes of their minibatch (ER-ACE)."""

    name = "er_ace"
    claims: ClassVar[frozenset[str]] = Strategy.claims | {"adjust"}

    def needs(self) -> Needs:
        return Needs(exemplars="joined", classes=True)

    def loss(self, batch: Batch) -> Tensor:
        outputs = batch.outputs()
        hidden = torch.zeros_like(outputs, dtype=torch.bool)
        present = torch.zeros(outputs.shape[1], device=outputs.device).index_fill_(0, batch.labels[batch.new], 1.0)
        hidden[batch.new] = batch.sum_over_ranks(present) == 0
        rows = batch.row_losses(outputs.masked_fill(hidden, -torch.inf))
        return batch.mean(rows, batch.new) + batch.mean(rows, batch.exemplars)
