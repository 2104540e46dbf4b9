"""How the learning rate changes while a network trains.

The rate of an optimisation step is the optimizer's rate times `Schedule.rate_factor(epochs)`, where `epochs` are the
(fractional) epochs since the start of the task or of the whole run. Schedules are functions of that position, so a run
that goes on needs the position alone. Warm-up multiplies a linear ramp on top (Goyal et al. 2017, arXiv 1706.02677).
"""

from __future__ import annotations

import abc

from drb.options import setting
from drb.training.method.part import Part


class Schedule(Part):
    """Multiplies the learning rate by a factor that depends on the epochs passed.

    What a schedule learns on the way lies in attributes without an annotation and is saved, as for every `Part`.

    span:          epochs are counted from the start of each task (task) or of the whole run (run)
    warmup_epochs: the rate rises linearly from `warmup_start` times the rate to the rate
    warmup_start:  share of the rate at which warm-up begins
    """

    span: str = setting("task", one_of=("task", "run"))
    warmup_epochs: float = setting(0.0, at_least=0)
    warmup_start: float = setting(0.0, at_least=0, at_most=1)

    @property
    def is_constant(self) -> bool:
        """Whether the factor is 1 at every step, so that nobody needs to ask for it."""
        return False

    @abc.abstractmethod
    def factor(self, epochs: float, epochs_per_task: float) -> float:
        """What the rate is multiplied by, warm-up apart.

        Args:
            epochs: epochs passed since the span began, such as 2.5.
            epochs_per_task: how many epochs the present task (or phase of one) takes.
        """

    def rate_factor(self, epochs: float, epochs_per_task: float) -> float:
        """What the rate is multiplied by, with warm-up."""
        return self._warmup(epochs) * self.factor(epochs, epochs_per_task)

    def _warmup(self, epochs: float) -> float:
        if epochs >= self.warmup_epochs:
            return 1.0
        return self.warmup_start + (1.0 - self.warmup_start) * epochs / self.warmup_epochs
