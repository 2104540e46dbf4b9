"""exemplars="auto:accuracy": as few as keep the share of rehearsed rows that are right within ε of what it was.

The level is the share of right rows among about the last WINDOW that any rank rehearsed. Its baseline is the level when
a task begins, or that of the first WINDOW rows, for which `most` exemplars are drawn. Then every round that brings
feedback moves r: up while the level is below baseline − ε, down while it is above, the more rows it is of and the
further it is off. What is computed is a function of sums over all ranks, of sums and products in float64 only, which
are the same on every machine: all ranks draw equally many.

The level is of the strata that were rehearsed before the task began, where exemplars are counted by stratum (as with
proportions=balanced); otherwise rows of the task itself are in it. Under proportions that prefer some strata it is the
level of what they prefer, not of all that is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from drb.types import Int64Array

if TYPE_CHECKING:
    from drb.sampling.feedback import Feedback  # loaded when it is used

WINDOW = 512  # rows
FURTHEST = 2.0  # at most so many ε count
GAIN = 0.5  # r grows or shrinks by this share in a window that is ε off
_TOLD_AFTER = 4 * WINDOW  # rows in a row at the limit


class AutoAccuracy:
    """How many exemplars each round draws: at least 1, at most `most`. Used on the engine's thread.

    epsilon: by how much the level may fall. chosen: r.
    level, baseline: None before WINDOW rows were seen.
    say: is told once in a task if `most` does not keep the level; None says nothing.
    """

    def __init__(self, most: int, epsilon: float) -> None:
        self.most = most
        self.epsilon = epsilon
        self.say: Callable[[str], None] | None = None
        self.baseline: float | None = None
        self._exact = float(most)
        self._strata: Int64Array = np.empty(0, np.int64)  # of which something was rehearsed
        self._old: Int64Array | None = None  # of these, those before the task began; None: all
        self._rows, self._right, self._seen = 0.0, 0.0, 0  # fading sums, and all rows until a window is full
        self._at_limit = 0  # rows in a row that were below the target at the limit; -1: was told

    def __str__(self) -> str:
        return f"1 to {self.most} (auto: as few as keep accuracy within {self.epsilon:g})"

    @property
    def chosen(self) -> int:
        return round(self._exact)

    @property
    def level(self) -> float | None:
        return self._right / self._rows if self._seen >= WINDOW else None

    def next(self, union: int) -> int:
        """Return how many exemplars each rank draws in this round, however many the union holds."""
        return self.chosen

    def observe(self, feedback: Feedback) -> None:
        """Take note of the sums of all ranks' feedback to one round, alike on all ranks, and move r."""
        self._strata = np.union1d(self._strata, feedback.strata)
        is_old = np.isin(feedback.strata, self._strata if self._old is None else self._old)
        rows = int(feedback.rows[is_old].sum())
        kept = max(0.0, 1 - rows / WINDOW)
        self._rows = kept * self._rows + rows
        self._right = kept * self._right + int(feedback.right[is_old].sum())
        self._seen = min(self._seen + rows, WINDOW)
        level = self.level
        if level is None:
            return
        if self.baseline is None:
            self.baseline = level
        below = self.baseline - self.epsilon - level
        error = min(max(below / self.epsilon, -FURTHEST), FURTHEST)
        share = min(rows / WINDOW, 1.0)
        self._exact = min(max(self._exact * (1 + GAIN * share * error), 1.0), float(self.most))
        self._note_limit(rows, below > 0 and self.chosen == self.most)

    def begin_task(self) -> None:
        """Make the present level the baseline, and the strata rehearsed so far the ones that it is of."""
        self.baseline, self._old = self.level, self._strata if len(self._strata) else None
        self._at_limit = 0

    def stats(self) -> dict[str, float | None]:
        """What it goes by, for `Rehearsal.stats`."""
        return {"old_accuracy": self.level, "old_baseline": self.baseline}

    def state_dict(self) -> dict[str, Any]:
        sums = {"rows": self._rows, "right": self._right, "seen": self._seen}
        strata = {"strata": self._strata, "has_old": self._old is not None, "old": self._strata[:0]}
        strata |= {} if self._old is None else {"old": self._old}
        return {"exact": self._exact, "baseline": self.baseline, **sums, **strata, "at_limit": self._at_limit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; begin anew from that of a run whose r was chosen otherwise."""
        if "exact" not in state:
            return
        self._exact = min(max(float(state["exact"]), 1.0), float(self.most))
        self.baseline = None if state["baseline"] is None else float(state["baseline"])
        self._rows, self._right, self._seen = float(state["rows"]), float(state["right"]), int(state["seen"])
        self._strata = np.array(state["strata"], np.int64)
        self._old = np.array(state["old"], np.int64) if state["has_old"] else None
        self._at_limit = int(state["at_limit"])

    def _note_limit(self, rows: int, is_at_limit: bool) -> None:
        if self._at_limit < 0:
            return
        self._at_limit = self._at_limit + rows if is_at_limit else 0
        if self._at_limit >= _TOLD_AFTER:
            self._at_limit = -1
            if self.say is not None:
                assert self.baseline is not None
                self.say(
                    f"exemplars=auto:accuracy: even {self.most} exemplars per rank and step do not keep the share of "
                    f"right rehearsed rows within {self.epsilon:g} of {self.baseline:.3f}: it is {self.level:.3f}; "
                    "raise the limit, or allow more"
                )
