"""Continual-learning metrics of a matrix of scores, as defined by GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840).

R[i][j] is the score on task j after training on task i, tasks counted from 0, T tasks trained so far:

    ACC        = mean over j < T      of R[T-1][j]
    BWT        = mean over j < T-1    of R[T-1][j] - R[j][j]
    FWT        = mean over 1 <= j < T of R[j-1][j] - b[j]
    forgetting = mean over j < T-1    of max over i < T-1 of R[i][j], minus R[T-1][j]
                 (Chaudhry et al. 2018, arXiv 1801.10112; without the last row in the maximum it can be negative)

For a score of which less is better, such as an error, differences change their sign and the maximum is a minimum: a
positive BWT or FWT is always a gain, a positive forgetting always a loss. b[j] is the score on task j of the network
*before any training*: measured later, it makes FWT zero or a comparison with itself. A metric is None as long as it is
undefined: with one task, or with a needed entry not evaluated. Entries above the diagonal (tasks not trained yet) are
needed by FWT alone; where they exist, forgetting's maximum counts them, too, as its definition says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean
from typing import Any


class ScoreMatrix:
    """R[i][j] and the baselines b[j], filled entry by entry, in any order.

    higher_is_better: the score's direction. bounds: its least and greatest value, if it has some.
    """

    def __init__(self, *, higher_is_better: bool = True, bounds: tuple[float, float] | None = (0.0, 1.0)) -> None:
        self._sign = 1 if higher_is_better else -1
        self._bounds = bounds
        self._entries: dict[tuple[int, int], float | None] = {}
        self._baselines: dict[int, float] = {}

    @property
    def num_tasks(self) -> int:
        """T: one more than the last task with an evaluation after it."""
        return 1 + max((after for after, _ in self._entries), default=-1)

    def add(self, after_task: int, on_task: int, value: float) -> None:
        """Set R[after_task][on_task]; a later value replaces an earlier one. One that is not finite is None."""
        is_finite = math.isfinite(value)
        if is_finite:
            self._check(value, after_task, on_task)
        self._entries[after_task, on_task] = value if is_finite else None

    def baseline(self, on_task: int, value: float) -> None:
        """Set b[on_task], the score of the starting network."""
        self._check(value, on_task)
        self._baselines[on_task] = value

    def rows(self) -> list[list[float | None]]:
        """R as nested lists with None where nothing was evaluated; T rows of equal length, at least T."""
        width = max([self.num_tasks, *(1 + on for _, on in self._entries)])
        return [[self._entries.get((i, j)) for j in range(width)] for i in range(self.num_tasks)]

    def baselines(self) -> list[float | None]:
        """b as a list, None where nothing was evaluated."""
        return [self._baselines.get(j) for j in range(1 + max(self._baselines, default=-1))]

    def mean_after(self, after_task: int) -> float | None:
        """The mean score, after this task, over the tasks seen by then; ACC for the last task."""
        return _mean(self._entries.get((after_task, j)) for j in range(after_task + 1))

    def acc(self) -> float | None:
        return self.mean_after(self.num_tasks - 1)

    def bwt(self) -> float | None:
        last = self.num_tasks - 1
        return _mean(self._gain(self._entries.get((last, j)), self._entries.get((j, j))) for j in range(last))

    def fwt(self) -> float | None:
        return _mean(
            self._gain(self._entries.get((j - 1, j)), self._baselines.get(j)) for j in range(1, self.num_tasks)
        )

    def forgetting(self) -> float | None:
        last = self.num_tasks - 1
        return _mean(self._gain(self._best_before(last, j), self._entries.get((last, j))) for j in range(last))

    def state_dict(self) -> dict[str, list[list[float | None]]]:
        """Numbers only, so that a checkpoint can hold it without pickle."""
        return {
            "entries": [[i, j, value] for (i, j), value in self._entries.items()],
            "baselines": [[j, value] for j, value in self._baselines.items()],
        }

    def load_state_dict(self, state: dict[str, list[list[Any]]]) -> None:
        self._entries = {(int(i), int(j)): value for i, j, value in state["entries"]}
        self._baselines = {int(j): value for j, value in state["baselines"]}

    def _best_before(self, last: int, on_task: int) -> float | None:
        """The best score on a task before the last one was trained."""
        column = [self._entries.get((i, on_task)) for i in range(last)]
        since_learnt = column[on_task:]
        if None in since_learnt:
            return None
        return self._sign * max(self._sign * value for value in column if value is not None)

    def _gain(self, a: float | None, b: float | None) -> float | None:
        """How much better a is than b."""
        return None if a is None or b is None else self._sign * (a - b)

    def _check(self, value: float, *tasks: int) -> None:
        if any(task < 0 for task in tasks):
            raise ValueError(f"tasks are counted from 0, got {min(tasks)}")
        if self._bounds is not None and not self._bounds[0] <= value <= self._bounds[1]:
            least, greatest = self._bounds
            raise ValueError(f"this score lies in [{least:g}, {greatest:g}], got {value}; divide percentages by 100")


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    if not known or None in known:
        return None
    return fmean(value for value in known if value is not None)
