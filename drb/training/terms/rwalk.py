"""Riemannian walk (Chaudhry et al. 2018, arXiv 1801.10112): the Fisher information along the path, and a path score.

Every step updates F ← alpha g² + (1 − alpha) F with the gradient g of the loss, of all ranks. Every `interval` steps
the score grows by ΔL / (½ F Δθ² + damping), where ΔL = Σ −g Δθ is how much the interval's steps lowered the loss and Δθ
how far the weight has moved in it. At a task's end the scores of the tasks are averaged, s ← (s + s_t) / 2, the
importance becomes F / max F + max(s, 0) / max s, and θ* ← θ; the penalty is strength · Σ importance (θ − θ*)².

The paper gives no damping; the default only keeps weights that do not move from being divided by 0.
"""

from __future__ import annotations

import torch

from drb.options import setting
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import ParameterVector
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.terms.path import PathPenalty


class RiemannianWalk(PathPenalty):
    """Hold weights by the Fisher information along their paths and by how much their paths lowered the loss.

    strength: the penalty is strength · Σ importance (θ − θ*)²
    alpha:    the weight of a step's squared gradient in the moving average of the Fisher information
    interval: optimisation steps over which a move is measured
    damping:  what ½ F Δθ² is increased by
    """

    name = "rwalk"
    strength: float = setting(0.1, at_least=0)
    alpha: float = setting(0.9, above=0, at_most=1)
    interval: int = setting(10, at_least=1)
    damping: float = setting(1e-15, above=0)

    def begin_task(self, task: CurrentTask) -> None:
        super().begin_task(task)
        if task.is_first:
            self.fisher, self.score, self.past_score = task.zeros(), task.zeros(), task.zeros()
        self._begin_interval(task.zeros(), task.weights())

    def updated(self, step: Step) -> None:
        self.fisher.mul_(1 - self.alpha).add_(self.gradient.map(torch.square) * self.alpha)
        self.decreased += self.decrease(step)
        self.steps += 1
        if self.steps == self.interval:
            self._end_interval(step.weights)

    def end_task(self, task: FinishedTask) -> None:
        weights = task.weights()
        self._end_interval(weights)
        self.past_score = self.score if task.is_first else (self.past_score + self.score) * 0.5
        self.importance = _scaled(self.fisher) + _scaled(self.past_score.map(torch.relu))
        self.score, self.anchor = task.zeros(), weights

    def _end_interval(self, weights: ParameterVector) -> None:
        information = (weights - self.interval_start).map(torch.square) * self.fisher * 0.5
        self.score += self.decreased / (information + self.damping)
        self._begin_interval(self.decreased.zeros_like(), weights.clone())

    def _begin_interval(self, decreased: ParameterVector, start: ParameterVector) -> None:
        self.decreased, self.interval_start, self.steps = decreased, start, 0


def _scaled(vector: ParameterVector) -> ParameterVector:
    """Divided by the largest entry of all tensors, if that is positive."""
    largest = torch.stack([value.max() for value in vector.tensors.values()]).max()
    return vector / largest.clamp_min(torch.finfo(largest.dtype).tiny)
