"""Tells the rehearsal what a batch's forward has shown of its exemplars, for proportions that draw by it.

The losses are the objective's, on the network's outputs as they are: what a term adds to outputs for training, such as
a prior of classes, is not in them. They take no other forward pass. Rows whose loss is not finite are left out.

Letters: r exemplars that the rehearsal gave for the batch, J of them that were trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.rehearsal.rehearsal import Rehearsal
from drb.training.method.batch import Batch
from drb.training.method.method import Method
from drb.training.method.structure import map_tensors, rows_of
from drb.training.objectives.objective import Objective
from drb.variant import name_of


class FeedbackGiver:
    """One per trainer, if its rehearsal learns from feedback."""

    def __init__(self, rehearsal: Rehearsal, method: Method, objective: Objective) -> None:
        """
        Raises:
            ValueError: nothing can be told: a method that trains on no exemplars; an objective that does not say which
                are right.
        """
        settings, who = rehearsal.settings, f"proportions={name_of(rehearsal.settings.shares)}"
        if method.draws.joined == 0:
            raise ValueError(
                f"{who} learns from exemplars in the minibatch, and {' + '.join(method.parts)} has none there; choose "
                "other proportions, or a strategy such as er"
            )
        if settings.needs_correct and not objective.tells_right():
            raise ValueError(
                f"{who} needs to know which exemplars the network is right about, which the objective "
                f"{name_of(objective)} does not say; choose proportions that need losses only, such as loss_aware"
            )
        self._rehearsal, self._objective, self._needs_correct = rehearsal, objective, settings.needs_correct

    def give(self, batch: Batch) -> None:
        """Give feedback on this batch, whose forward was made."""
        rows = batch.exemplars
        if rows.start == rows.stop:
            return
        outputs = map_tensors(Tensor.detach, rows_of(batch.outputs(), rows))
        fields = {name: value[rows] for name, value in batch.items()}
        loss = self._objective.row_losses(outputs, fields)
        correct = self._objective.right(outputs, fields) if self._needs_correct else None
        known = loss.isfinite()
        if batch.places is not None:
            loss, known = (_spread(values, batch.places, batch.num_given) for values in (loss, known))
            correct = None if correct is None else _spread(correct, batch.places, batch.num_given)
        self._rehearsal.feedback(loss=loss, correct=correct, known=known)


def _spread(values_J: Tensor, places: Tensor | slice, count: int) -> Tensor:
    """The values at their places among so many exemplars, [r]; 0 or False at others."""
    spread = torch.zeros(count, dtype=values_J.dtype, device=values_J.device)
    spread[places] = values_J
    return spread
