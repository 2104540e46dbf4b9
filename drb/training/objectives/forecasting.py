"""Forecasting: what follows a window of a time series, by the mean square error.

Shapes: windows float32 [B, T, C], futures float32 [B, H, C], with T past and H future steps of C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from drb.training.objectives.objective import Metric, Sums
from drb.training.objectives.squared_loss import SquaredLoss, numbers_of
from drb.types import Minibatch


class Forecasting(SquaredLoss):
    """Predict the steps that follow a window.

    input:  the field with the window, [T, C]
    target: the field with the steps that follow, [H, C]
    """

    name = "forecasting"
    input: str = "series"
    target: str = "future"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("error", higher_is_better=False, has_baseline=True),
        Metric("skill", has_baseline=True),
    )
    """error: the mean square error. skill: 1 - error / the error of repeating the window's last step."""

    def inputs(self, batch: Minibatch) -> Tensor:
        return self.field("input", batch)

    def targets(self, batch: Minibatch) -> Tensor:
        return numbers_of(self.field("target", batch))

    def sums(self, outputs: Any, batch: Minibatch) -> Sums:
        last, future = self.inputs(batch)[:, -1:], self.field("target", batch)
        return {**super().sums(outputs, batch), "persistence": (future - last).square().flatten(1).mean(1).sum()}

    def values(self, sums: Mapping[str, Any]) -> dict[str, float]:
        error = float(sums["error"] / sums["count"])
        return {"error": error, "skill": 1 - float(sums["error"] / sums["persistence"])}
