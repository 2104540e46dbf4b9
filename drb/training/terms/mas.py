"""Memory aware synapses (Aljundi et al. 2018, arXiv 1711.09601): a weight is as important as the outputs depend on it.

The importance of a task is the mean over its samples, of all ranks, of |∂ ‖f(x)‖² / ∂θ| for one sample x, with the
network's outputs f(x); no labels are needed. At a task's end Ω ← gamma Ω + Ω_t and θ* ← θ, and the penalty is
strength · Σ Ω (θ − θ*)². gamma = 1 adds up over tasks as in the paper.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drb.options import setting
from drb.training.method.structure import tensors_in
from drb.training.method.tasks import FinishedTask
from drb.training.terms.quadratic import QuadraticPenalty
from drb.types import Minibatch


class MemoryAwareSynapses(QuadraticPenalty):
    """Hold weights by how much the outputs depend on them.

    strength: the penalty is strength · Σ Ω (θ − θ*)²
    gamma:    what is left of the earlier tasks' importance at the end of each task
    """

    name = "mas"
    gamma: float = setting(1.0, at_least=0, at_most=1)

    def end_task(self, task: FinishedTask) -> None:
        self.importance.mul_(self.gamma).add_(task.mean_of_gradients(_squared_length, each=torch.Tensor.abs_))
        self.anchor = task.weights()


def _squared_length(outputs: Any, batch: Minibatch) -> Tensor:
    """‖f(x)‖² of each row."""
    return torch.stack([output.flatten(1).square().sum(1) for output in tensors_in(outputs)]).sum(0)
