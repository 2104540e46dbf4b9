"""How many outputs a task needs, and which of them its samples may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from drb.data.scenarios.task import Task
from drb.distributed.world import World
from drb.types import Int64Array, Minibatch

Loss = Callable[[Tensor, Minibatch], Tensor]


def outputs_needed(task: Task, world: World) -> int:
    """1 + the largest label in the task, on any rank. Collective."""
    sources = [task.train, task.test, *([task.validation] if task.validation is not None else [])]
    largest = max(int(source.labels.max(initial=0)) for source in sources)
    needed = torch.tensor(1 + max(largest, *task.classes), device=world.device)
    if world.world_size > 1:
        dist.all_reduce(needed, op=dist.ReduceOp.MAX)
    return int(needed)


def check_labels(labels: Int64Array, sample_ids: Int64Array, num_classes: int, where: str) -> None:
    """Raises:
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


def masked_loss(loss: Loss, classes_of_task: Sequence[Sequence[int]], num_classes: int, device: torch.device) -> Loss:
    """A loss with each row's logits at -inf outside its own task's classes; minibatches carry `task`."""
    others = torch.ones(len(classes_of_task), num_classes, dtype=torch.bool)
    for index, classes in enumerate(classes_of_task):
        others[index, list(classes)] = False
    others = others.to(device)

    def masked(logits: Tensor, batch: Minibatch) -> Tensor:
        return loss(logits.masked_fill(others[batch["task"]], -torch.inf), batch)

    return masked
