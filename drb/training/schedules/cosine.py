"""A learning rate that falls along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""

from __future__ import annotations

import math

from drb.options import setting
from drb.training.schedules.schedule import Schedule


class Cosine(Schedule):
    """Let the rate fall along half a cosine to `final_factor` times the rate.

    final_factor: share of the rate that is left at the end
    total_epochs: where the cosine ends; null takes the epochs of a task, which only span=task knows
    """

    name = "cosine"
    final_factor: float = setting(0.0, at_least=0, at_most=1)
    total_epochs: float | None = setting(None, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span == "run" and self.total_epochs is None:
            raise ValueError(
                "cosine.span=run needs cosine.total_epochs, the epochs of all tasks together: a stream does not know "
                "its length"
            )

    def factor(self, epochs: float, epochs_per_task: float) -> float:
        end = epochs_per_task if self.total_epochs is None else self.total_epochs
        share = min(1.0, epochs / end)
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * share))
