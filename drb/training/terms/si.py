"""Synaptic intelligence (Zenke et al. 2017, arXiv 1703.04200): a weight is as important as its path lowered the loss.

Along the steps of a task ω = Σ −g Δθ is added up (see `drb.training.terms.path`). At the task's end
Ω ← Ω + max(ω, 0) / ((θ − θ*)² + damping), where θ* are the weights at the end of the task before, and then θ* ← θ. The
penalty is strength · Σ Ω (θ − θ*)². A path that raised the loss counts 0: a negative importance would push the weight
away from its anchor.
"""

from __future__ import annotations

import torch

from drb.options import setting
from drb.training.method.optimizer_step import Step
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.terms.path import PathPenalty


class SynapticIntelligence(PathPenalty):
    """Hold weights by how much their paths lowered the losses of earlier tasks.

    strength: the penalty is strength · Σ Ω (θ − θ*)²
    damping:  what the square of a weight's move is increased by (ξ in the paper)
    """

    name = "si"
    strength: float = setting(0.1, at_least=0)
    damping: float = setting(0.1, above=0)

    def begin_task(self, task: CurrentTask) -> None:
        super().begin_task(task)
        if task.is_first:
            self.path = task.zeros()

    def updated(self, step: Step) -> None:
        self.path += self.decrease(step)

    def end_task(self, task: FinishedTask) -> None:
        weights = task.weights()
        moved = (weights - self.anchor).map(torch.square)
        self.importance += self.path.map(torch.relu) / (moved + self.damping)
        self.path, self.anchor = task.zeros(), weights
