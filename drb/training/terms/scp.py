"""Sliced Cramér preservation (Kolouri et al., ICLR 2020, openreview BJge3TNKwH): keep where the outputs lie.

The importance of a task is the mean over L random directions v, unit vectors in the space of the outputs, of the square
of ∂ (v · mean f(x)) / ∂θ, with the mean of the outputs f(x) over the task's samples of all ranks. It takes one backward
pass for each direction. Over all directions the mean is Σ_k (∂ mean f_k(x) / ∂θ)² / K, with K outputs f_k. At a task's
end Ω ← Ω + Ω_t and θ* ← θ, and the penalty is strength · Σ Ω (θ − θ*)².

The mean goes over all of a task's samples, so that the importance depends neither on batches nor on ranks; widespread
code squares each batch's gradient. That code also adds up the directions before a single backward
pass, which makes the importance about L times too small. The paper's L and strength were not verified.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drb.options import setting
from drb.seeding import derive_seed
from drb.training.method.tasks import FinishedTask
from drb.training.terms.quadratic import QuadraticPenalty
from drb.types import Minibatch


class SlicedCramerPreservation(QuadraticPenalty):
    """Hold weights by how much they shift the mean of the outputs along random directions.

    strength:   the penalty is strength · Σ Ω (θ − θ*)²
    directions: how many are drawn for each task (L); None: the exact mean over all directions, which takes one backward
        pass for each output
    seed:       of the directions, the same on all ranks
    """

    name = "scp"
    directions: int | None = setting(50, at_least=1)
    seed: int = setting(0, at_least=0)

    def end_task(self, task: FinishedTask) -> None:
        found, count = task.zeros(), 0
        for gradient in task.gradients_of_means(partial(self._along, task)):
            found, count = found.add_(gradient.map(torch.Tensor.square_)), count + 1
        self.importance += found / count
        self.anchor = task.weights()

    def _along(self, task: FinishedTask, outputs: Any, batch: Minibatch) -> Tensor:
        """The outputs' coordinates along the directions, float32 [B, L]."""
        flat = task.objective.flatten(outputs)
        if self.directions is None:  # the mean over the axes is that over all directions
            return flat
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "directions", task.index))
        on_sphere = F.normalize(torch.randn(self.directions, flat.shape[1], generator=generator))
        return flat @ on_sphere.T.to(flat.device)
