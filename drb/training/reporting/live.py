"""How training stands at this moment, for whoever looks on.

It is read on the training thread, between two steps and only when somebody draws it. Nothing is computed, sent or
waited for: the loss is that of the last logged point, the score that of the last evaluation, and exemplars are those of
this rank's buffer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drb.data.scenarios.task import Task

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal
    from drb.training.state.progress import Progress

_FILL_EVERY_S = 2.0  # counting the exemplars of a large buffer takes milliseconds:
_FILL_SHARE = 0.005  # of the time, at most


@dataclass(frozen=True)
class Live:
    """One look at a run. What is not known yet is None.

    task:       its number and name, for example 'task 2 (classes 2,3)'.
    completed, total: minibatches of the task.
    epoch, epochs: the present epoch, counted from 1, of how many.
    step:       optimisation steps so far.
    seconds_left: of the task's training, if it goes on as it did so far.
    loss:       the mean over the ranks and the steps up to the last logged point.
    score:      the last evaluation in words, for example 'accuracy 71.2% after task 1'.
    samples_per_second: of the stream, over all ranks, since training on the task began or went on.
    overlapped: the share of the rehearsal's rounds that training did not wait for, on this rank.
    stored, capacity: exemplars on all ranks.
    fill:       exemplars in this rank's buffer, by the name of their class (or of what else exemplars are grouped by).
    """

    task: str
    completed: int
    total: int
    epoch: int
    epochs: int
    step: int
    seconds_left: float | None = None
    loss: float | None = None
    score: str = ""
    samples_per_second: float | None = None
    overlapped: float | None = None
    stored: int | None = None
    capacity: int | None = None
    fill: Mapping[str, int] = field(default_factory=dict)


class LiveView:
    """Makes `Live`. One per trainer.

    completed: minibatches of the task so far; whoever counts them adds to it.
    loss, score: of the last logged point and of the last evaluation.
    """

    def __init__(self, progress: Progress, rehearsal: Rehearsal | None) -> None:
        self.completed = 0
        self.loss: float | None = None
        self.score = ""
        self._progress = progress
        self._rehearsal = rehearsal
        self._task, self._total, self._epochs = "", 0, 0
        self._first, self._first_rows, self._first_seconds = 0, 0, 0.0  # where the task began, or went on
        self._names: Sequence[str] = ()
        self._fill: dict[str, int] = {}
        self._next_fill = 0.0

    def begin(self, task: Task, completed: int, total: int, epochs: int, names: Sequence[str]) -> None:
        """Training on a task begins or goes on.

        Args:
            completed: minibatches that are done, of `total`.
            names: of the classes that exemplars are grouped by; one without a name is called by its number.
        """
        self._task, self._total, self._epochs, self._names = str(task), total, epochs, names
        self.completed = self._first = completed
        self._first_rows, self._first_seconds = self._progress.rows, self._progress.clock.seconds

    def read(self) -> Live:
        """Return how training stands. On the training thread."""
        progress, done = self._progress, self.completed - self._first
        seconds = progress.clock.seconds - self._first_seconds
        return Live(
            self._task,
            self.completed,
            self._total,
            min(progress.position.epoch + 1, self._epochs),
            self._epochs,
            progress.steps,
            seconds_left=seconds * (self._total - self.completed) / done if done else None,
            loss=self.loss,
            score=self.score,
            samples_per_second=(progress.rows - self._first_rows) / seconds if done and seconds else None,
            **self._of_rehearsal(),
        )

    def _of_rehearsal(self) -> dict[str, Any]:
        if self._rehearsal is None:
            return {}
        stats = self._rehearsal.stats()
        self._count(self._rehearsal)
        return {
            "overlapped": overlapped_share(stats),
            "stored": stats.get("stored_total"),
            "capacity": stats.get("capacity_total"),
            "fill": self._fill,
        }

    def _count(self, rehearsal: Rehearsal) -> None:
        started = time.perf_counter()
        if started < self._next_fill:
            return
        counts, names = rehearsal.counts(wait=False), self._names
        self._fill = {names[s] if 0 <= s < len(names) else str(s): count for s, count in counts.items()}
        ended = time.perf_counter()
        self._next_fill = ended + max(_FILL_EVERY_S, (ended - started) / _FILL_SHARE)


def overlapped_share(stats: Mapping[str, Any]) -> float | None:
    """The share of the rounds' time that the training thread did not wait for; None before the first round.

    stats: of `Rehearsal.stats`.
    """
    if not stats.get("round_seconds"):
        return None
    return max(0.0, 1.0 - float(stats["wait_seconds"] + stats["inline_seconds"]) / float(stats["round_seconds"]))
