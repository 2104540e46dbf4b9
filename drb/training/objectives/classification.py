"""Classification: one label per sample, cross-entropy, top-1 and top-5 accuracy.

Letters: B rows of a batch, C outputs of the head, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drb.data.datasets import Source
from drb.data.scenarios.task import Task
from drb.options import setting
from drb.training.objectives.objective import Metric, Objective, Sums
from drb.types import Int64Array, Minibatch


class Classification(Objective):
    """One of several classes per sample, by cross-entropy.

    input:           the field that the network takes
    target:          the field of labels, int64
    label_smoothing: the share of a target that is spread over all classes
    """

    name = "classification"
    input: str = "image"
    target: str = "label"
    label_smoothing: float = setting(0.0, at_least=0, below=1)

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", bounds=(0.0, 1.0), has_baseline=True),
        Metric("top5", bounds=(0.0, 1.0)),
        Metric("masked", bounds=(0.0, 1.0), has_baseline=True),
        Metric("loss", higher_is_better=False, zero_shot=False),
    )
    """accuracy: the likeliest class is right; where tasks are known at test time, among the task's classes, which
    `masked` always is. top5: the right class is among the min(5, C) likeliest. loss: the mean cross-entropy, infinite
    if the head has no output for some sample's class yet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._others: Tensor | None = None
        self._task_aware = False

    @property
    def class_field(self) -> str:
        return self.target

    # -- a task

    def num_outputs(self, task: Task) -> int:
        """1 + the largest label in the task."""
        sources = [task.train, task.test, *([task.validation] if task.validation is not None else [])]
        return 1 + max(*task.classes, *(int(source.labels.max(initial=0)) for source in sources))

    def begin_task(
        self, classes_of_tasks: Sequence[tuple[int, ...]], num_outputs: int, *, task_aware: bool, device: torch.device
    ) -> None:
        self._task_aware = task_aware
        if task_aware:
            self._others = classes_of_others(classes_of_tasks, num_outputs).to(device)

    def check_source(self, source: Source, num_outputs: int, where: str) -> None:
        check_labels(source.labels, source.sample_ids, num_outputs, where)

    def check(self, minibatch: Minibatch, num_outputs: int, where: str) -> None:
        check_labels(minibatch[self.target].numpy(), minibatch["sample_id"].numpy(), num_outputs, where)

    # -- training

    def inputs(self, batch: Minibatch) -> Tensor:
        return batch[self.input]

    def row_losses(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        return self._cross_entropy(outputs, batch, "none")

    def right(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        """The likeliest class is the row's."""
        return self._of_task(outputs, batch).argmax(dim=1) == batch[self.target]

    def mean_loss(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        return self._cross_entropy(outputs, batch, "mean")

    def fisher_terms(self, outputs: Tensor, batch: Minibatch) -> Tensor:
        """√p log p of each class: the squared gradient of the logarithm counts p, its class's probability."""
        logs = self._of_task(outputs, batch).log_softmax(dim=1)
        probabilities = logs.detach().exp()
        return torch.where(probabilities > 0, probabilities.sqrt() * logs, 0.0)

    def _cross_entropy(self, logits: Tensor, batch: Minibatch, reduction: str) -> Tensor:
        logits = self._of_task(logits, batch)
        return F.cross_entropy(logits, batch[self.target], label_smoothing=self.label_smoothing, reduction=reduction)

    def _of_task(self, logits: Tensor, batch: Minibatch) -> Tensor:
        """Where tasks are known, classes of other tasks cannot be."""
        return logits if self._others is None else logits.masked_fill(self._others[batch["task"]], -torch.inf)

    # -- evaluation

    def scorer(self, source: Source, classes: Sequence[int] | None) -> Callable[[Any, Minibatch], Sums]:
        num_classes = 1 + int(np.max(source.labels))

        def score(logits: Tensor, batch: Minibatch) -> Sums:
            return _sums(logits, batch[self.target], num_classes, classes, by_task=self._task_aware)

        return score


def _sums(logits: Tensor, labels: Tensor, num_classes: int, classes: Sequence[int] | None, *, by_task: bool) -> Sums:
    num_outputs = logits.shape[1]
    if num_outputs < num_classes:  # a class that the head does not know yet cannot win and has probability 0
        logits = F.pad(logits, (0, num_classes - num_outputs), value=-torch.inf)
    best = logits.topk(min(5, num_outputs), dim=1).indices
    hits = best == labels[:, None]
    masked = hits[:, 0]
    if classes is not None:
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[[c for c in classes if c < logits.shape[1]]] = False
        masked = logits.masked_fill(others, -torch.inf).argmax(dim=1) == labels
    return {
        "accuracy": (masked if by_task else hits[:, 0]).sum(),
        "top5": hits.any(dim=1).sum(),
        "masked": masked.sum(),
        "loss": F.cross_entropy(logits, labels, reduction="sum"),
        "count": torch.ones_like(labels).sum(),
    }


def check_labels(labels: Int64Array, sample_ids: Int64Array, num_classes: int, where: str) -> None:
    """Check that the head has an output for every label.

    Raises:
        ValueError: the first sample whose label is not in [0, num_classes), the outputs of the head; on a GPU the loss
            would end the process with an assertion.
    """
    # as unsigned integers negative labels are the largest: one pass, a microsecond for a minibatch
    if not len(labels) or int(labels.view(np.uint64).max()) < num_classes:
        return
    row = int(np.argmax(labels.view(np.uint64) >= num_classes))
    raise ValueError(
        f"sample {sample_ids[row]} of {where} has the label {labels[row]}, but the head has {num_classes} outputs, for "
        f"labels 0 to {num_classes - 1}; mend the data or the number of classes"
    )


def classes_of_others(classes_of_tasks: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Which classes do not belong to each task: bool [T, C]."""
    others = torch.ones(len(classes_of_tasks), num_classes, dtype=torch.bool)
    for index, classes in enumerate(classes_of_tasks):
        others[index, list(classes)] = False
    return others
