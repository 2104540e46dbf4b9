"""What an optimizer is in a configuration: its options, and how it is made for a network."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import nn

from drb.options import setting
from drb.variant import Variant, name_of

_SCALES = {"none": lambda world_size: 1.0, "linear": float, "sqrt": math.sqrt}


class OptimizerBuilder(Variant):
    """Makes optimizers of one kind.

    lr:           learning rate of one rank
    lr_scaling:   what lr is multiplied by on W ranks: 1 (none), W (linear) or the square root of W (sqrt)
    weight_decay: share of each weight that its update takes away, times the rate
    """

    lr: float = setting(0.1, above=0)
    lr_scaling: str = setting("none", one_of=tuple(_SCALES))
    weight_decay: float = setting(0.0, at_least=0)

    @abc.abstractmethod
    def build(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """An optimizer over these parameters. It takes steps without a closure.

        Args:
            lr: the rate scaled for the number of ranks. A schedule multiplies the rate that each group of the result
                has by one factor, so groups may differ.
        """

    def scaled_rate(self, world_size: int) -> float:
        """The learning rate on this many ranks."""
        return self.lr * _SCALES[self.lr_scaling](world_size)

    def for_network(self, network: nn.Module, world_size: int = 1) -> torch.optim.Optimizer:
        """An optimizer over every trainable parameter, at the rate scaled for this many ranks.

        Raises:
            ValueError: `build` returned something else.
        """
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = self.build(parameters, self.scaled_rate(world_size))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"build() of the optimizer {name_of(self)} must return a torch.optim.Optimizer, got "
                f"{type(optimizer).__name__}"
            )
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return optimizer
