"""Learning rate schedules: pure functions of how many epochs have passed, so that resuming needs the position alone.

The rate of an optimisation step is base rate x `factor(epochs)`, with `epochs` the (fractional) epochs since the start
of the task or of the whole run. Warm-up multiplies a linear ramp on top (Goyal et al. 2017, arXiv 1706.02677).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from drb.options import limits, setting


@dataclass
class ScheduleSettings:
    """How the learning rate changes. Epochs are counted from the start of the task (span=task) or of the run.

    name:          constant; step (x gamma at each of `milestones`, in epochs); cosine (to `final_factor`)
    warmup_epochs: the rate rises linearly from `warmup_start` times the rate to the rate
    total_epochs:  where cosine ends; None is the epochs of a task, which only span=task knows
    """

    name: str = setting("constant", one_of=("constant", "step", "cosine"))
    span: str = setting("task", one_of=("task", "run"))
    warmup_epochs: float = setting(0.0, at_least=0)
    warmup_start: float = setting(0.0, at_least=0, at_most=1)
    milestones: list[float] = field(default_factory=list, metadata=limits(above=0))
    gamma: float = setting(0.1, above=0, at_most=1)
    final_factor: float = setting(0.0, at_least=0, at_most=1)
    total_epochs: float | None = setting(None, above=0)

    @property
    def is_constant(self) -> bool:
        return self.name == "constant" and self.warmup_epochs == 0


def check_schedule(schedule: ScheduleSettings) -> None:
    """Check that the settings of a schedule fit together.

    Raises:
        ValueError: settings that cannot be meant together.
    """
    if schedule.name == "step" and not schedule.milestones:
        raise ValueError("schedule.name=step needs schedule.milestones, the epochs at which the rate falls, got none")
    if schedule.milestones != sorted(schedule.milestones):
        raise ValueError(f"schedule.milestones must increase, got {list(schedule.milestones)}")
    if schedule.name == "cosine" and schedule.span == "run" and schedule.total_epochs is None:
        raise ValueError(
            "schedule.span=run with cosine needs schedule.total_epochs, the epochs of all tasks together: "
            "a stream does not know its length"
        )


def rate_factor(schedule: ScheduleSettings, epochs: float, epochs_per_task: float) -> float:
    """What the base rate is multiplied by after `epochs` (fractional) of the schedule's span."""
    return _warmup(schedule, epochs) * _decay(schedule, epochs, epochs_per_task)


def _warmup(schedule: ScheduleSettings, epochs: float) -> float:
    if epochs >= schedule.warmup_epochs:
        return 1.0
    return schedule.warmup_start + (1.0 - schedule.warmup_start) * epochs / schedule.warmup_epochs


def _decay(schedule: ScheduleSettings, epochs: float, epochs_per_task: float) -> float:
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        passed = sum(epochs >= milestone for milestone in schedule.milestones)
        return float(schedule.gamma**passed)
    end = epochs_per_task if schedule.total_epochs is None else schedule.total_epochs
    share = min(1.0, epochs / end)
    return schedule.final_factor + (1.0 - schedule.final_factor) * 0.5 * (1.0 + math.cos(math.pi * share))
