"""Feedback on its way through a round: this rank's rows into the round's message, all ranks' sums to who uses them.

Letters: R rows of feedback, W ranks, H integers of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from drb.sampling.feedback import NOTHING, WORDS, Feedback
from drb.types import BoolArray, Float64Array, Int64Array


@dataclass(frozen=True)
class FeedbackRows:
    """What this rank has learnt about rehearsed rows: strata int64 [R], loss float64 [R], right bool [R]."""

    strata: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    loss: Float64Array = field(default_factory=lambda: np.empty(0))
    right: BoolArray = field(default_factory=lambda: np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.strata)

    @classmethod
    def joined(cls, parts: Sequence[FeedbackRows]) -> FeedbackRows:
        """Return the rows of several, one after the other."""
        if not parts:
            return NO_ROWS
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


NO_ROWS = FeedbackRows()


class Observing:
    """Used on the thread that runs rounds.

    most_rows: of a round, on one rank. observers: are told the sums of all ranks before the round draws.
    needs_correct: some of them need to know which rows were right.
    words: that it takes of a rank's message, H.
    brought: sums that all ranks know already, from a state of another number of ranks; they go with the next round's.
    """

    def __init__(self, most_rows: int, *observers: Callable[[Feedback], None], needs_correct: bool = False) -> None:
        self.most_rows = most_rows
        self.observers = list(observers)
        self.needs_correct = needs_correct
        self.words = 1 + WORDS * most_rows
        self.brought = NOTHING

    def write(self, rows: FeedbackRows | None, message_H: Int64Array) -> None:
        """Put this rank's rows, if there are some, into its message. They are summed up with those of the others."""
        message_H[0] = 0 if rows is None else len(rows)
        if rows:
            words = message_H[1 : 1 + WORDS * len(rows)].reshape(-1, WORDS)
            words[:, 0], words[:, 1], words[:, 2] = rows.strata, rows.right, rows.loss.view(np.int64)

    def observe(self, messages_WH: Int64Array) -> None:
        """Add up what all ranks have sent, and tell it; nothing if none has sent any."""
        counts_W, feedback = messages_WH[:, 0], NOTHING
        if counts_W.any():
            feedback = Feedback.of_words(messages_WH[:, 1:].reshape(len(messages_WH), -1, WORDS), counts_W)
        if len(self.brought):
            feedback, self.brought = Feedback.joined([self.brought, feedback]), NOTHING
        if len(feedback):
            for observe in self.observers:
                observe(feedback)
