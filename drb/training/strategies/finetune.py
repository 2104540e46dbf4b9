"""Incremental training on each task's own data and nothing against forgetting: the lower bound."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from drb.training.strategies.strategy import Strategy
from drb.types import Minibatch


class Finetune(Strategy):
    """Cross-entropy on the minibatch."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._label_smoothing = label_smoothing

    def loss(self, logits: Tensor, batch: Minibatch) -> Tensor:
        return F.cross_entropy(logits, batch["label"], label_smoothing=self._label_smoothing)
