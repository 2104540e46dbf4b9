"""Adam (Kingma & Ba 2015, arXiv 1412.6980), and AdamW, whose weight decay is apart from the gradient (Loshchilov &
Hutter 2019, arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from drb.options import setting
from drb.training.optimizers.builder import OptimizerBuilder


class Adam(OptimizerBuilder):
    """Adam: steps scaled by running means of the gradient and of its square.

    beta1: what is left of the running mean of the gradient at each step
    beta2: what is left of the running mean of its square
    eps: added to the root of the mean square
    """

    name = "adam"
    lr: float = setting(0.001, above=0)
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.999, at_least=0, below=1)
    eps: float = setting(1e-8, above=0)

    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return self._kind()(
            parameters, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay
        )

    def _kind(self) -> type[torch.optim.Adam]:
        return torch.optim.Adam


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient."""

    name = "adamw"
    weight_decay: float = setting(0.01, at_least=0)

    def _kind(self) -> type[torch.optim.Adam]:
        return torch.optim.AdamW
