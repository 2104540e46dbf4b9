"""Where a run is in its stream: what a resumed run goes on from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Position:
    """The next minibatch to train on.

    task:      index of the task
    begun:     its head has grown and the evaluation before it is done
    epoch:     of the task; as many as it has when only the evaluation after it is left
    minibatch: of the epoch, on each rank
    """

    task: int = 0
    begun: bool = False
    epoch: int = 0
    minibatch: int = 0

    @property
    def is_fresh(self) -> bool:
        """Nothing of the task has been trained."""
        return self.epoch == 0 and self.minibatch == 0
