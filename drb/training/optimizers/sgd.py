"""Stochastic gradient descent, with momentum or without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from drb.options import setting
from drb.training.optimizers.builder import OptimizerBuilder


class Sgd(OptimizerBuilder):
    """Stochastic gradient descent.

    momentum: what is left of the last step's direction
    nesterov: look ahead along it (Sutskever et al. 2013)
    """

    name = "sgd"
    momentum: float = setting(0.0, at_least=0, below=1)
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("sgd.nesterov=true needs sgd.momentum above 0, got 0.0")

    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
