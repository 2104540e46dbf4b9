"""What a round gives: the exemplars of each step that it fetched for, and what the ranks said of themselves.

Letters: R exemplars of a draw, W ranks, K words of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from drb.buffer.record import ROUND, SAMPLE_ID, SLOT, STRATUM
from drb.distributed.failure import first_few
from drb.sampling.sampler import Draw
from drb.types import Exemplars, Handle, Int64Array, Minibatch

ACTIVE, FINISHED = 0, 1  # what a rank says of itself in a round: it goes on, or this is its last


class UnevenError(ValueError):
    """Ranks stopped after different numbers of steps."""


@dataclass(frozen=True)
class StepExemplars:
    """The exemplars of one step, whose rows begin at row `first` of block `block`.

    step: the step's number; the last sample that could be drawn was offered two steps before.
    draw: what was drawn, in `draws` independent draws one after the other.
    rows: int64 [R, K], whose memory is reused when the block's exemplars are used up.
    """

    step: int
    draw: Draw
    rows: Int64Array
    block: int
    first: int
    draws: int = 1

    def __len__(self) -> int:
        return len(self.rows)

    def named(self, fields: Minibatch, known: Minibatch) -> Exemplars:
        """The exemplars with these fields and counts of columns; the rest is read from the rows' headers."""
        headers = torch.from_numpy(self.rows)
        return Exemplars(
            fields=fields,
            sample_id=headers[:, SAMPLE_ID],
            stratum=headers[:, STRATUM],
            weight=torch.from_numpy(self.draw.weight).float(),
            age=self.step - headers[:, ROUND],
            handle=Handle(self.draw.owner, self.rows[:, SLOT], self.rows[:, ROUND]),
            draws=self.draws,
            known=known,
        )


@dataclass(frozen=True)
class Ends:
    """How the ranks stood in a round in which at least one said that it was its last.

    statuses, steps: every rank's when it submitted the round, int64 [W].
    """

    statuses: Int64Array
    steps: Int64Array

    @property
    def are_even(self) -> bool:
        """Whether all ranks have taken as many steps, and none goes on."""
        return bool((self.statuses == FINISHED).all() and (self.steps == self.steps[0]).all())

    def uneven(self) -> UnevenError:
        """The error for ranks that must all stop at the same step, and did not."""
        first = int(self.steps[self.statuses == FINISHED].min())
        finished = (self.statuses == FINISHED) & (self.steps == first)
        stopped, going_on = (first_few(np.flatnonzero(ranks).tolist()) for ranks in (finished, ~finished))
        return UnevenError(
            f"ranks [{stopped}] stopped after {first} steps while ranks [{going_on}] go on; "
            'give every rank the same number of minibatches (drb.OwnerSampler does) or set uneven="stop"'
        )


@dataclass(frozen=True)
class RoundResult:
    """What a round found out and fetched.

    per_step: the exemplars of each step, empty once a rank has ended. ends: None as long as all ranks go on.
    """

    per_step: list[StepExemplars]
    ends: Ends | None = None

    @property
    def exemplars(self) -> int:
        """The number of exemplars of each step."""
        return len(self.per_step[0]) if self.per_step else 0
