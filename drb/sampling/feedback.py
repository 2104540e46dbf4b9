"""What was learnt about rehearsed samples, summed by stratum: feedback for proportions that depend on it.

A rank sends its rows, three words each, with the message of a round's barrier. Every rank adds up those of all ranks,
in float64 and in the order of the ranks, so that all have the same sums.

Letters: R rows, F strata that rows were of, W ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drb.types import BoolArray, Float64Array, Int64Array

WORDS = 3  # of a row in a message: its stratum, whether it is right, the bits of its loss


@dataclass(frozen=True)
class Feedback:
    """Sums over rehearsed rows, by stratum; alike on all ranks when proportions observe them.

    strata: int64 [F], distinct and ascending
    rows:   int64 [F], how many there were
    loss:   float64 [F], the sum of their losses
    right:  int64 [F], how many of them were right
    """

    strata: Int64Array
    rows: Int64Array
    loss: Float64Array
    right: Int64Array

    def __len__(self) -> int:
        return len(self.strata)

    @property
    def num_rows(self) -> int:
        """The number of rows of all strata."""
        return int(self.rows.sum())

    @classmethod
    def of_rows(cls, strata_R: Int64Array, loss_R: Float64Array, right_R: BoolArray) -> Feedback:
        """Return the sums of these rows."""
        return cls._summed(strata_R, None, loss_R, right_R)

    @classmethod
    def joined(cls, parts: Sequence[Feedback]) -> Feedback:
        """Return the sums of several, added up in their order."""
        if len(parts) == 1:
            return parts[0]
        strata, rows, loss, right = (np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES)
        return cls._summed(strata, rows, loss, right)

    @classmethod
    def of_words(cls, words: Int64Array, counts_W: Int64Array) -> Feedback:
        """Return the sums of all ranks' rows. words: int64 [W, *, 3], of which each rank has set the first counts_W."""
        own = np.arange(words.shape[1]) < counts_W[:, None]
        strata, right, loss = words[own].T.copy()
        return cls._summed(strata, None, loss.view(np.float64), right)

    @classmethod
    def _summed(
        cls, strata: Int64Array, rows: Int64Array | None, loss: Float64Array, right: Int64Array | BoolArray
    ) -> Feedback:
        """Equal strata become one. `bincount` adds in order, in float64. rows: None for 1 each."""
        distinct, which = np.unique(strata, return_inverse=True)
        size = len(distinct)
        num_rows = np.bincount(which, rows, size)
        return cls(
            distinct,
            num_rows.astype(np.int64),
            np.bincount(which, loss, size).astype(np.float64),  # of nothing they are integers
            np.bincount(which, right, size).astype(np.int64),
        )


NOTHING = Feedback(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
_NAMES = ("strata", "rows", "loss", "right")
