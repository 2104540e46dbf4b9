"""MIR, maximally interfered retrieval (Aljundi et al. 2019, arXiv 1908.04742): replay of what is about to be forgotten.

Of `candidates` exemplars those are trained on whose loss rises most by a virtual step on the new rows: one of plain
gradient descent at the present learning rate, along the gradient of the mean loss of all ranks' new rows. A step costs
two forwards over the candidates, and one forward and backward more over the new rows.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.strategies.er import ExperienceReplay


class MaximallyInterferedRetrieval(ExperienceReplay):
    """Replay of those candidates whose loss a step on the new rows would raise most.

    candidates: how many exemplars each rank draws to choose from
    """

    name = "mir"
    candidates: int = setting(50, at_least=1)

    def needs(self) -> Needs:
        return replace(super().needs(), candidates=self.candidates)

    def select(self, batch: Batch) -> Tensor:
        moved = batch.step.weights - batch.step.rate * batch.gradient(batch.new)
        before = batch.row_losses(batch.extra_outputs(batch.exemplars), batch.exemplars)
        after = batch.row_losses(batch.extra_outputs(batch.exemplars, weights=moved), batch.exemplars)
        return (after - before).topk(batch.num_selected).indices
