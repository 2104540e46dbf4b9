"""Elastic weight consolidation, online with gamma = 1 (Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018,
arXiv 1805.06370): weights that earlier tasks needed are held where they were.

The penalty is strength / 2 · Σ F (θ − θ*)², F the sum over tasks of the empirical Fisher information: the mean over a
task's samples, of all ranks, of the square of the gradient of log p(label | sample) for one sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.options import setting
from drb.training.method.parameters import Gradient, Weights
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.terms.term import Term


class ElasticWeightConsolidation(Term):
    """Keep the weights that earlier tasks needed.

    strength: of the penalty
    """

    name = "ewc"
    strength: float = setting(100.0, at_least=0)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.importance, self.anchor = task.zeros(), task.weights()

    def penalise(self, weights: Weights, gradient: Gradient) -> Tensor:
        distance = weights - self.anchor
        pull = self.strength * (self.importance * distance)
        gradient.add_(pull)
        return 0.5 * (pull @ distance)

    def end_task(self, task: FinishedTask) -> None:
        self.importance += task.mean_of_gradients(task.log_likelihood, each=torch.square)
        self.anchor = task.weights()
