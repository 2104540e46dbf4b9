"""Reconstruction: several tensors from one, such as amplitude and phase from a diffraction image."""

from __future__ import annotations

import torch
from torch import Tensor

from drb.options import setting
from drb.training.objectives.squared_loss import SquaredLoss, numbers_of
from drb.types import Minibatch


class Reconstruction(SquaredLoss):
    """Reconstruct one or more fields; the network gives one output tensor for each, in this order.

    input:  the field that the network takes
    fields: those that are reconstructed; the loss is the mean square error over all their numbers
    """

    name = "reconstruction"
    input: str = "image"
    fields: list[str] = setting(["amplitude", "phase"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fields:
            raise ValueError("objective.fields must name at least one field to reconstruct, got none")

    def inputs(self, batch: Minibatch) -> Tensor:
        return self.field("input", batch)

    def targets(self, batch: Minibatch) -> Tensor:
        return torch.cat([numbers_of(self.field("fields", batch, name)) for name in self.fields], dim=1)
