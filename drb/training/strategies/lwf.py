"""LwF, learning without forgetting (Li & Hoiem 2016, arXiv 1606.09282): the network of before is the teacher.

From the second task on the loss is the mean loss of the minibatch plus strength times the mean cross-entropy between
the softmax of the teacher's outputs and that of the network's own, both divided by the temperature, over the classes
of the tasks before. The teacher is the network as it was at the end of the last task, in eval mode, and sees the same
augmented rows. Nothing is stored but its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from drb.options import setting
from drb.training.method.batch import Batch
from drb.training.method.frozen import FrozenNetwork
from drb.training.method.needs import Needs
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.strategies.strategy import Strategy


class LearningWithoutForgetting(Strategy):
    """Distillation from the network of the tasks before, on the new task's own data.

    strength: the weight of the distillation
    temperature: what outputs are divided by before the softmax
    """

    name = "lwf"
    strength: float = setting(1.0, at_least=0)
    temperature: float = setting(2.0, above=0)

    def needs(self) -> Needs:
        return Needs(classes=True)

    def begin_task(self, task: CurrentTask) -> None:
        if task.is_first:
            self.teacher: FrozenNetwork | None = None
            self.classes: list[int] = []

    def end_task(self, task: FinishedTask) -> None:
        self.teacher = FrozenNetwork.copy_of(task.network)
        self.classes = sorted({*self.classes, *task.classes})

    def loss(self, batch: Batch) -> Tensor:
        outputs = batch.outputs()
        loss = batch.mean_loss(outputs)
        if self.teacher is None:
            return loss
        taught = batch.extra_outputs(network=self.teacher.network_like(batch.step.network))
        target = torch.softmax(taught[:, self.classes] / self.temperature, dim=1)
        rows = F.cross_entropy(outputs[:, self.classes] / self.temperature, target, reduction="none")
        return loss + self.strength * batch.mean(rows)
