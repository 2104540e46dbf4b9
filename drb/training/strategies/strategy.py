"""What a strategy is: the loss of a batch, and two hooks. It never sees a rank, a buffer or a process group."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from drb.types import Minibatch


class Strategy:
    """A way of learning a stream of tasks.

    uses_rehearsal: every minibatch is extended with exemplars from the rehearsal buffers
    cumulative:     a task is trained on the data of all tasks so far
    fresh_weights:  every task starts from a freshly initialised network
    """

    uses_rehearsal: ClassVar[bool] = False
    cumulative: ClassVar[bool] = False
    fresh_weights: ClassVar[bool] = False

    def loss(self, logits: Tensor, batch: Minibatch) -> Tensor:
        """The mean loss over the rows of a batch, a scalar.

        The trainer weights it by the batch's rows, so that the gradient is that of the mean over the rows of all ranks
        and accumulated batches.

        Args:
            logits: float [B, C]; in task-incremental learning -inf outside a sample's task.
            batch: the extended minibatch on the network's device: `label` int64 [B], with rehearsal also `rehearsed`
                bool [B], and the dataset's other fields.
        """
        raise NotImplementedError

    def begin_task(self, index: int, network: nn.Module) -> None:
        """Called before a task's first batch, the head already grown."""

    def end_task(self, index: int, network: nn.Module) -> None:
        """Called after a task's last batch, before the evaluation."""
