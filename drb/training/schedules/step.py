"""A learning rate that falls at given epochs."""

from __future__ import annotations

from dataclasses import field

from drb.options import limits, setting
from drb.training.schedules.schedule import Schedule


class Step(Schedule):
    """Multiply the rate by `gamma` at each milestone, or set it to a share of its full value there.

    milestones: epochs of the task (span=task) or of the run (span=run), in increasing order
    gamma:      what the rate is multiplied by at each of them, unless there are factors
    factors:    the share of the full rate from each milestone on; empty: as gamma says
    """

    name = "step"
    milestones: list[float] = field(default_factory=list, metadata=limits(above=0))
    gamma: float = setting(0.1, above=0, at_most=1)
    factors: list[float] = field(default_factory=list, metadata=limits(above=0, at_most=1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.milestones:
            raise ValueError("step.milestones must name the epochs at which the rate falls, got none")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"step.milestones must increase, got {list(self.milestones)}")
        if self.factors and len(self.factors) != len(self.milestones):
            raise ValueError(
                f"step.factors must have a value for each of the {len(self.milestones)} milestones, got {self.factors}"
            )

    def factor(self, epochs: float, epochs_per_task: float) -> float:
        passed = sum(epochs >= milestone for milestone in self.milestones)
        if self.factors:
            return float(self.factors[passed - 1]) if passed else 1.0
        return float(self.gamma**passed)
