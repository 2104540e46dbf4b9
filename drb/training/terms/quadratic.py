"""A quadratic penalty on the weights: what EWC, SI, MAS, RWalk and SCP have in common.

The penalty is factor · strength · Σ importance (θ − anchor)², with one importance and one anchor for each weight. The
terms differ in how they find the importance. Its gradient has a closed form and is added once per optimisation step,
so a penalty costs no forward pass. With plain SGD the step diverges where learning rate · factor · strength ·
importance exceeds 1 for some weight: lower the strength, or set `training.clip_norm`. New outputs of a head that grows
have the importance 0 until their first task ends.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from drb.options import setting
from drb.training.method.parameters import Gradient, Weights
from drb.training.method.tasks import CurrentTask
from drb.training.terms.term import Term


class QuadraticPenalty(Term):
    """Hold each weight near its anchor, the more so the more important it is.

    strength: what the penalty is multiplied by
    """

    factor: ClassVar[float] = 1.0
    strength: float = setting(1.0, at_least=0)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.importance, self.anchor = task.zeros(), task.weights()

    def penalise(self, weights: Weights, gradient: Gradient) -> Tensor:
        distance = weights - self.anchor
        pull = (self.importance * distance).mul_(2 * self.factor * self.strength)
        gradient.add_(pull)
        return 0.5 * (pull @ distance)
