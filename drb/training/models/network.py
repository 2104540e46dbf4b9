"""A network is a body that makes features and a linear head that grows as classes appear.

Shapes: B rows, F features, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drb.seeding import derive_seed
from drb.training.models.weights import LoadReport


class Head(nn.Module):
    """What makes outputs of features, and may grow as classes appear."""

    @property
    def num_classes(self) -> int:
        """Classes that it has outputs for; 1 if its outputs have nothing to do with classes."""
        raise NotImplementedError

    def grow(self, num_classes: int, seed: int) -> bool:
        """Have outputs for at least so many classes; True if parameters have changed."""
        raise NotImplementedError


class GrowingHead(Head):
    """A linear layer, float32 [B, F] -> [B, C], whose C can grow.

    Row c starts uniform in [-bound, bound), from a generator keyed by (seed, c) alone, with bias 0: growing
    by 2 and 2 gives the same head as growing by 4. Rows that exist are kept bit for bit.
    """

    def __init__(self, num_features: int, num_classes: int, *, seed: int, bound: float | None = None) -> None:
        """bound: 1 / sqrt(num_features) if None, as in `nn.Linear`."""
        super().__init__()
        self._bound = num_features**-0.5 if bound is None else bound
        self.weight = nn.Parameter(torch.empty(0, num_features))
        self.bias = nn.Parameter(torch.empty(0))
        self.grow(num_classes, seed)

    @property
    def num_classes(self) -> int:
        return len(self.bias)

    def grow(self, num_classes: int, seed: int) -> bool:
        """Have at least `num_classes` rows; True if there were fewer (the parameters are new objects then)."""
        if num_classes <= self.num_classes:
            return False
        rows = torch.stack([self._new_row(row, seed) for row in range(self.num_classes, num_classes)])
        zeros = self.bias.new_zeros(len(rows))
        self.weight = _extended(self.weight, rows.to(self.weight))
        self.bias = _extended(self.bias, zeros)
        return True

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)

    def _new_row(self, row: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, "head", row))
        return torch.empty(self.weight.shape[1]).uniform_(-self._bound, self._bound, generator=generator)


class Network(nn.Module):
    """body: images float32 [B, channels, H, W] -> features [B, F]; head: features -> logits [B, C] or other outputs."""

    def __init__(self, body: nn.Module, head: Head) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.load_report: LoadReport | None = None  # what a start from given weights took over

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations, float32 [B, F]."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Any:
        """Logits, float32 [B, C], or whatever the head makes of the features."""
        return self.head(self.body(images))

    def grow(self, num_classes: int, seed: int) -> bool:
        """Have at least `num_classes` classes; True if the head changed.

        Its parameters are new objects then: DDP and the optimizer must be given them.
        """
        return self.head.grow(num_classes, seed)


def _extended(parameter: nn.Parameter, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([parameter.detach(), rows]), requires_grad=parameter.requires_grad)
