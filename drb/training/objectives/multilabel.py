"""Multi-label classification: any number of classes per sample, by binary cross-entropy.

Letters: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drb.data.datasets import Source
from drb.data.scenarios.task import Task
from drb.training.objectives.objective import Metric, Objective, Sums
from drb.types import Minibatch


class Multilabel(Objective):
    """Say of each class whether a sample belongs to it; the loss is the mean over the classes.

    input:  the field that the network takes
    target: the field that is not 0 for the classes of a sample, [K]
    """

    name = "multilabel"
    input: str = "image"
    target: str = "present"

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("f1", bounds=(0.0, 1.0), has_baseline=True),
        Metric("exact", bounds=(0.0, 1.0)),
        Metric("loss", higher_is_better=False),
    )
    """f1: the harmonic mean of precision and recall over all classes of all samples, with a class taken to be present
    from the probability 1/2 on. exact: the share of samples all of whose classes are right. loss: the mean loss."""

    def num_outputs(self, task: Task) -> int:
        """K."""
        return self.max_columns(task.train.gather(np.zeros(1, np.int64)), 0)

    def max_columns(self, example: Minibatch, num_classes: int) -> int:
        return self._present(example).shape[1]

    def inputs(self, batch: Minibatch) -> Tensor:
        return self.field("input", batch)

    def row_losses(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        present = self._present(batch)
        if outputs.shape != present.shape:
            raise ValueError(
                f"the network has {outputs.shape[1]} outputs for the {present.shape[1]} classes of {self.target}; "
                "choose a model with as many outputs"
            )
        return F.binary_cross_entropy_with_logits(outputs, present, reduction="none").mean(dim=1)

    def right(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        """Each class is said to be present just where it is."""
        return ((outputs >= 0) == (self._present(batch) != 0)).all(dim=1)

    def fisher_terms(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        """√(p (1 − p)) / K times each output: classes are independent, and the loss is their mean."""
        p = outputs.detach().sigmoid()
        return outputs * (p * (1 - p)).sqrt() / outputs.shape[1]

    def scorer(self, source: Source, classes: Sequence[int] | None) -> Callable[[Any, Minibatch], Sums]:
        return self._sums

    def values(self, sums: Mapping[str, Any]) -> dict[str, float]:
        found = float(sums["said"] + sums["there"])
        f1 = 2 * float(sums["both"]) / found if found else 1.0
        return {"f1": f1, **{name: float(sums[name] / sums["count"]) for name in ("exact", "loss")}}

    def _sums(self, logits: Tensor, batch: Minibatch) -> Sums:
        present, said = self._present(batch), (logits >= 0).float()
        losses = self.row_losses(logits, batch)
        return {
            "both": (present * said).sum(),
            "said": said.sum(),
            "there": present.sum(),
            "exact": (present == said).all(dim=1).sum(),
            "loss": losses.sum(),
            "count": torch.ones_like(losses).sum(),
        }

    def _present(self, batch: Minibatch) -> Tensor:
        """float32 [B, K], 0 or 1."""
        return (self.field("target", batch) != 0).float()
