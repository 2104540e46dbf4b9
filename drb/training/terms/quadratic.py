"""A quadratic penalty on the weights: what EWC, SI, MAS, RWalk and SCP have in common.

The penalty is factor · strength · Σ importance (θ − anchor)², with one importance and one anchor for each weight. The
terms differ in how they find the importance. Its gradient has a closed form and is added once per optimisation step,
so a penalty costs no forward pass. New outputs of a head that grows have the importance 0 until their first task ends.

A step of plain SGD takes a weight 2 · learning rate · factor · strength · importance of the way back to its anchor.
From 2 on it would move further away in each step. So each penalty takes it at most the whole way: a weight that is more
important is held as firmly as one can be.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from drb.options import setting
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Gradient, Weights
from drb.training.method.tasks import CurrentTask
from drb.training.terms.term import Term

_SMALLEST = 1e-12


class QuadraticPenalty(Term):
    """Hold each weight near its anchor, the more so the more important it is.

    strength: what the penalty is multiplied by
    """

    factor: ClassVar[float] = 1.0
    strength: float = setting(1.0, at_least=0)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.importance, self.anchor = task.zeros(), task.weights()

    def observe(self, step: Step, gradient: Gradient) -> None:
        self._rate = step.rate

    def penalise(self, weights: Weights, gradient: Gradient) -> Tensor:
        distance = weights - self.anchor
        stiffness = self.importance * (2 * self.factor * self.strength)
        pull = stiffness.map(partial(torch.clamp_, max=1 / max(self._rate, _SMALLEST))).mul_(distance)
        gradient.add_(pull)
        return 0.5 * (pull @ distance)
