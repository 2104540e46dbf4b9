"""Continual-learning metrics of an accuracy matrix, as defined by GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840).

R[i][j] is the accuracy on task j after training on task i, tasks counted from 0, T tasks trained so far:

    ACC        = mean over j < T      of R[T-1][j]
    BWT        = mean over j < T-1    of R[T-1][j] - R[j][j]
    FWT        = mean over 1 <= j < T of R[j-1][j] - b[j]
    forgetting = mean over j < T-1    of max over i < T-1 of R[i][j], minus R[T-1][j]
                 (Chaudhry et al. 2018, arXiv 1801.10112; without the last row in the maximum it can be negative)

b[j] is the accuracy on task j of the network *before any training*: measured later, it makes FWT zero or a
comparison with itself. All values are fractions in [0, 1]. A metric is None as long as it is undefined: with
one task, or with a needed entry not evaluated. Entries above the diagonal (tasks not trained yet) are needed by FWT
alone; where they exist, forgetting's maximum counts them, too, as its definition says.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean


class AccuracyMatrix:
    """R[i][j] and the baselines b[j], filled entry by entry, in any order."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int], float] = {}
        self._baselines: dict[int, float] = {}

    @property
    def num_tasks(self) -> int:
        """T: one more than the last task with an evaluation after it."""
        return 1 + max((after for after, _ in self._entries), default=-1)

    def add(self, after_task: int, on_task: int, value: float) -> None:
        """Set R[after_task][on_task]; a later value replaces an earlier one."""
        _check(value, after_task, on_task)
        self._entries[after_task, on_task] = value

    def baseline(self, on_task: int, value: float) -> None:
        """Set b[on_task], the accuracy of the starting network."""
        _check(value, on_task)
        self._baselines[on_task] = value

    def rows(self) -> list[list[float | None]]:
        """R as nested lists with None where nothing was evaluated; T rows of equal length, at least T."""
        width = max([self.num_tasks, *(1 + on for _, on in self._entries)])
        return [[self._entries.get((i, j)) for j in range(width)] for i in range(self.num_tasks)]

    def baselines(self) -> list[float | None]:
        """b as a list, None where nothing was evaluated."""
        return [self._baselines.get(j) for j in range(1 + max(self._baselines, default=-1))]

    def mean_after(self, after_task: int) -> float | None:
        """The mean accuracy, after this task, over the tasks seen by then; ACC for the last task."""
        return _mean(self._entries.get((after_task, j)) for j in range(after_task + 1))

    def acc(self) -> float | None:
        return self.mean_after(self.num_tasks - 1)

    def bwt(self) -> float | None:
        last = self.num_tasks - 1
        return _mean(_minus(self._entries.get((last, j)), self._entries.get((j, j))) for j in range(last))

    def fwt(self) -> float | None:
        return _mean(_minus(self._entries.get((j - 1, j)), self._baselines.get(j)) for j in range(1, self.num_tasks))

    def forgetting(self) -> float | None:
        last = self.num_tasks - 1
        return _mean(_minus(self._best_before(last, j), self._entries.get((last, j))) for j in range(last))

    def state_dict(self) -> dict[str, list[list[float]]]:
        """Numbers only, so that a checkpoint can hold it without pickle."""
        return {
            "entries": [[i, j, value] for (i, j), value in self._entries.items()],
            "baselines": [[j, value] for j, value in self._baselines.items()],
        }

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        self._entries = {(int(i), int(j)): value for i, j, value in state["entries"]}
        self._baselines = {int(j): value for j, value in state["baselines"]}

    def _best_before(self, last: int, on_task: int) -> float | None:
        """The best accuracy on a task before the last one was trained."""
        column = [self._entries.get((i, on_task)) for i in range(last)]
        since_learnt = column[on_task:]
        if None in since_learnt:
            return None
        return max(value for value in column if value is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    if not known or None in known:
        return None
    return fmean(value for value in known if value is not None)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _check(value: float, *tasks: int) -> None:
    if any(task < 0 for task in tasks):
        raise ValueError(f"tasks are counted from 0, got {min(tasks)}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"accuracies are fractions in [0, 1], got {value}; divide percentages by 100")
