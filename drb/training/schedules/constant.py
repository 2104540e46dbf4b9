"""The same learning rate throughout, but for warm-up."""

from __future__ import annotations

from drb.training.schedules.schedule import Schedule


class Constant(Schedule):
    """Keep the rate."""

    name = "constant"

    @property
    def is_constant(self) -> bool:
        return self.warmup_epochs == 0

    def factor(self, epochs: float, epochs_per_task: float) -> float:
        return 1.0
