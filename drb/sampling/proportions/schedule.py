"""Schedule: a list of shares over the strata, an entry for each task or for so many steps.

With stratum=task the list may be what a search over schedules of replay has found (arXiv 2209.08660):

    scenario=task_incremental rehearsal.proportions=schedule rehearsal.stratum=task
    rehearsal.proportions_options.shares=[[1],[1],[1,1],[0,2,1]]

The fourth task then rehearses one exemplar of the third for two of the second, and none of the first.

Letters: E entries, S strata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.options import required, setting
from drb.sampling.proportions.base import History, StratumWeights
from drb.types import Float64Array, Int64Array
from drb.variant import identity


class Schedule(StratumWeights):
    """Give strata the shares of a list's entry: the first one in the first task, and so on.

    shares: E lists; place k of each is the share of stratum k, or of the k-th of `strata`. Those that are missing, and
        strata that are not named, get none; shares need not sum to 1.
    strata: the strata's values, in the order of the shares; None: 0, 1, 2 and so on
    by: what an entry is for, task or step
    every: an entry is for so many tasks or steps
    """

    name = "schedule"
    shares: list[list[float]] = required()
    strata: list[int] | None = None
    by: str = setting("task", one_of=("task", "step"))
    every: int = setting(1, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._task = 0
        self._checked = -1  # the last entry whose strata were there
        if not self.shares:
            raise ValueError("schedule.shares must have an entry for each task or step, got none")
        if self.strata is not None and len(set(self.strata)) < len(self.strata):
            raise ValueError(f"schedule.strata must name each stratum once, got {self.strata}")
        for number, entry in enumerate(self.shares, 1):
            self._check(number, entry)

    @property
    def needs_tasks(self) -> bool:
        return self.by == "task"

    def begin_task(self, index: int, history: History) -> None:
        if self.by == "task":
            self._entry(index)
        self._task = index

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        number = self._entry(self._task if self.by == "task" else step)
        shares = np.array(self.shares[number], np.float64)
        named = np.arange(len(shares)) if self.strata is None else np.array(self.strata[: len(shares)])
        place = np.searchsorted(strata_S, named)
        known = strata_S[np.minimum(place, len(strata_S) - 1)] == named
        if self._checked != number:
            held = known & (sizes_S[np.minimum(place, len(strata_S) - 1)] > 0)
            if (missing := named[~held & (shares > 0)]).size:
                raise ValueError(
                    f"entry {number + 1} of the schedule gives stratum {missing[0]} a share, and none of the stored "
                    f"exemplars is of it; there are {strata_S[sizes_S > 0].tolist()}: leave it out, or give it 0"
                )
            self._checked = number
        weights: Float64Array = np.zeros(len(strata_S))
        weights[place[known]] = shares[known]
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {"checked": self._checked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._checked = int(state["checked"])

    def goes_on_from(self, saved: Mapping[str, Any]) -> bool:
        """Return whether this has the entries of a saved schedule, and maybe more, for later tasks or steps."""
        known = saved.get("shares", [])
        return {**saved, "shares": self.shares} == identity(self) and self.shares[: len(known)] == known

    def _entry(self, now: int) -> int:
        """The entry for a task or a step, counted from 0."""
        number = now // self.every
        if number >= len(self.shares):
            raise ValueError(
                f"the schedule has {len(self.shares)} {'entries' if len(self.shares) > 1 else 'entry'} for "
                f"{self.every * len(self.shares)} {self.by}s, and {self.by} {now + 1} has begun: add entries to "
                "schedule.shares, or let each be for more by schedule.every"
            )
        return number

    def _check(self, number: int, entry: list[float]) -> None:
        """Raise ValueError unless these are shares."""
        if any(not math.isfinite(share) or share < 0 for share in entry) or not sum(entry) > 0:
            raise ValueError(
                f"entry {number} of schedule.shares must have shares of at least 0, not all of them 0, got {entry}"
            )
        if self.strata is not None and len(entry) > len(self.strata):
            raise ValueError(
                f"entry {number} of schedule.shares has {len(entry)} shares for the {len(self.strata)} strata that "
                "schedule.strata names"
            )
