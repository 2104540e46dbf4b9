"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): one quadratic penalty per task.

After task t the Fisher information F_t is measured at the weights θ_t, and strength / 2 · Σ_t Σ F_t (θ − θ_t)² is added
from then on. The sum over tasks of such penalties is one penalty with the importance Σ F_t and the anchor
Σ F_t θ_t / Σ F_t, plus a constant (Huszár 2018, arXiv 1712.03847), so the memory does not grow with the tasks.

The Fisher information is the mean over the task's samples, of all ranks, of the square of one sample's gradient: of
log p(target) for the target in the data (`empirical`), or the expectation of that square over the targets that the
model itself expects (`true`), which takes one backward pass for each class or output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.options import setting
from drb.training.method.parameters import ParameterVector
from drb.training.method.tasks import FinishedTask
from drb.training.terms.quadratic import QuadraticPenalty


class Fisher(QuadraticPenalty):
    """Hold weights by their Fisher information.

    strength: the penalty is strength / 2 · Σ F (θ − θ*)²
    fisher:   empirical (of the targets in the data) or true (of all targets, as likely as the model finds them)
    """

    factor = 0.5
    strength: float = setting(100.0, at_least=0)
    fisher: str = setting("empirical", one_of=("empirical", "true"))

    def information(self, task: FinishedTask) -> ParameterVector:
        """The diagonal of the Fisher information on the task's samples. Collective."""
        scores = task.log_likelihood if self.fisher == "empirical" else task.objective.fisher_terms
        return task.mean_of_gradients(scores, each=torch.Tensor.square_)


class ElasticWeightConsolidation(Fisher):
    """Hold weights near those that each earlier task needed: one penalty per task."""

    name = "ewc"

    def end_task(self, task: FinishedTask) -> None:
        found = self.information(task)
        self.importance += found
        self.anchor += found / self.importance.map(_not_zero) * (task.weights() - self.anchor)


def _not_zero(importance: Tensor) -> Tensor:
    return importance.clamp_min(torch.finfo(importance.dtype).tiny)
