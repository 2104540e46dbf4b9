"""How tasks are trained: what a user may set."""

from __future__ import annotations

from dataclasses import dataclass

from drb.options import setting
from drb.training.finite import POLICIES


@dataclass
class TrainingSettings:
    """How a task is trained.

    batch_size:      rows of a minibatch without exemplars, on each rank (batch_scope=rank) or on all ranks together
                     (batch_scope=total)
    accumulate:      minibatches per optimisation step
    precision:       fp32, bf16 or fp16 (autocast; fp16 on CUDA only)
    clip_norm:       gradients of a larger norm are scaled down to it; None never
    sync_bn:         batch norms take their statistics over all ranks (CUDA only)
    eval_batch_size: rows per rank at a time in evaluation
    knn:             after each task, also measure the accuracy of so many nearest neighbours in feature space, among
                     each task's training samples (200 is usual); 0 never
    log_every:       optimisation steps between two logged points
    eval_every:      optimisation steps between two evaluations of the tasks so far in the midst of training; None never
    on_nonfinite:    at a NaN or infinite loss or gradient: stop (end the run), skip (leave the update out) or ignore
    """

    epochs: int = setting(1, at_least=1)
    batch_size: int = setting(32, at_least=1)
    batch_scope: str = setting("rank", one_of=("rank", "total"))
    accumulate: int = setting(1, at_least=1)
    precision: str = setting("fp32", one_of=("fp32", "bf16", "fp16"))
    channels_last: bool = False
    clip_norm: float | None = setting(None, above=0)
    sync_bn: bool = False
    eval_batch_size: int = setting(256, at_least=1)
    knn: int = setting(0, at_least=0)
    log_every: int = setting(50, at_least=1)
    eval_every: int | None = setting(None, at_least=1)
    on_nonfinite: str = setting("stop", one_of=POLICIES)

    def rows_per_rank(self, world_size: int) -> int:
        """Rows of one rank's minibatch.

        Raises:
            ValueError: a total that does not divide by the ranks.
        """
        if self.batch_scope == "rank":
            return self.batch_size
        return split_evenly("training.batch_size", self.batch_size, world_size)


def split_evenly(name: str, total: int, world_size: int) -> int:
    """One rank's part of a total.

    Raises:
        ValueError: it leaves a remainder.
    """
    if total % world_size:
        raise ValueError(
            f"{name}={total} in total cannot be shared evenly by {world_size} ranks; choose a multiple of {world_size}"
        )
    return total // world_size
