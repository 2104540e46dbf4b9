"""Where a run is in its stream: what a resumed run goes on from."""

from __future__ import annotations

from dataclasses import dataclass

from drb.data.epochs import Segment


@dataclass
class Position:
    """The next minibatch to train on.

    task:      index of the task
    begun:     its head has grown and the evaluation before it is done
    phase:     of the task; None when only its end is left
    epoch:     of the phase
    minibatch: of the epoch, on each rank; since the number of ranks changed, if it did during the epoch
    earlier:   what other numbers of ranks did of the epoch before
    """

    task: int = 0
    begun: bool = False
    phase: int | None = 0
    epoch: int = 0
    minibatch: int = 0
    earlier: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        self.earlier = tuple(part if isinstance(part, Segment) else Segment(**part) for part in self.earlier)

    @property
    def is_fresh(self) -> bool:
        """Nothing of the task has been trained."""
        return self.phase == 0 and self.begins_phase

    @property
    def begins_phase(self) -> bool:
        """Nothing of the phase has been trained."""
        return self.epoch == 0 and self.minibatch == 0 and not self.earlier

    def begin_epoch_anew(self) -> None:
        """What was seen of the epoch does not count: the data is another."""
        self.minibatch, self.earlier = 0, ()

    def end_epoch(self) -> None:
        self.epoch, self.minibatch, self.earlier = self.epoch + 1, 0, ()

    def end_phase(self, *, is_last: bool) -> None:
        assert self.phase is not None
        self.phase, self.epoch = None if is_last else self.phase + 1, 0

    def change_ranks(self, world_size: int, batch_size: int) -> None:
        """Up to here there were so many ranks, with minibatches of so many rows; from here on there are others."""
        if self.minibatch:
            self.earlier = (*self.earlier, Segment(world_size, batch_size, self.minibatch))
            self.minibatch = 0
