"""Balanced softmax (Ren et al. 2020, arXiv 2007.10740; logit adjustment: Menon et al. 2021, arXiv 2007.07314).

Rehearsal trains on many rows of the present classes and few of each earlier one, so the outputs come to prefer present
classes. The loss therefore sees the outputs plus strength · log π, with the share π of each class among the rows that
are trained on; evaluation uses the outputs themselves. A class with no share at all gets −10⁹.

π is known in two ways:

    running   π ← π + rate · (share of the minibatch and its exemplars − π), over all ranks; one small message per
              minibatch. Nothing needs to be known of tasks.
    tasks     (b [c in the task] / classes of the task + r m_c / M) / (b + r), for b new and r rehearsed rows and m_c of
              M exemplars in class c. Exemplars are counted over all ranks every `count_every` optimisation steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.method.tasks import CurrentTask
from drb.training.terms.term import Term

_NEVER = -1e9


class BalancedSoftmax(Term):
    """Add the logarithm of each class's share of the rows to the outputs that the loss sees.

    prior:       running (a moving average of label shares) or tasks (the task's classes and the stored exemplars)
    strength:    what the logarithm is multiplied by
    rate:        of the moving average, per minibatch
    count_every: optimisation steps between two counts of the exemplars
    """

    name = "balanced_softmax"
    prior: str = setting("running", one_of=("running", "tasks"))
    strength: float = setting(1.0, at_least=0)
    rate: float = setting(0.05, above=0, at_most=1)
    count_every: int = setting(10, at_least=1)

    def needs(self) -> Needs:
        return Needs(classes=True, counts=self.prior == "tasks")

    def begin_task(self, task: CurrentTask) -> None:
        num_classes = task.num_outputs
        if task.is_first:
            device = next(task.network.parameters()).device
            self.shares, self.stored = torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int64, device=device)
        self.shares, self.stored = _padded(self.shares, num_classes), _padded(self.stored, num_classes)
        self.of_task, self.is_counted = torch.zeros_like(self.shares), False
        self.task_classes = list(task.classes)

    def prepare(self, batch: Batch) -> None:
        shares = self._shares_of_task(batch) if self.prior == "tasks" else self._running_shares(batch)
        self._log_shares = torch.where(shares > 0, shares.log() * self.strength, _NEVER)

    def adjust(self, outputs: Any, batch: Batch) -> Tensor:
        adjusted: Tensor = outputs + self._log_shares
        return adjusted

    def _running_shares(self, batch: Batch) -> Tensor:
        new, rehearsed = batch.new_rows_total, batch.rehearsed_rows_total
        own = [self._count(batch.labels[rows]) for rows in (batch.new, batch.exemplars)]
        counts = batch.sum_over_ranks(torch.stack(own))
        of_new, of_exemplars = counts / counts.sum(1, keepdim=True).clamp_min(1)
        self.shares.lerp_((new * of_new + rehearsed * of_exemplars) / max(1, new + rehearsed), self.rate)
        return self.shares

    def _shares_of_task(self, batch: Batch) -> Tensor:
        if not self.is_counted or (batch.step.number - 1) % self.count_every == 0:
            self.stored, self.is_counted = batch.stored_counts(len(self.stored)), True
            self.of_task[self.task_classes] = 1 / len(self.task_classes)
        new, rehearsed = batch.new_rows_total, batch.rehearsed_rows_total
        return (new * self.of_task + rehearsed * self.stored / self.stored.sum().clamp_min(1)) / max(1, new + rehearsed)

    def _count(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(self.shares).index_add_(0, labels, torch.ones_like(labels, dtype=torch.float32))


def _padded(values: Tensor, size: int) -> Tensor:
    return F.pad(values, (0, size - len(values)))
