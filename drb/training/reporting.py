"""What a trainer says: a point every few steps, a line and an entry at a task's end, and a word when a step was bad."""

from __future__ import annotations

from typing import Any

from drb.data.scenarios.task import Task
from drb.training.exemplars import refuse_duplicates, total_counts
from drb.training.learner import Learner
from drb.training.monitor import Monitor
from drb.training.parts import Parts


class Reporter:
    """One per trainer; its methods are collective."""

    def __init__(self, parts: Parts, monitor: Monitor, *, allow_duplicates: bool) -> None:
        self.monitor = monitor
        self._parts = parts
        self._allow_duplicates = allow_duplicates

    def interval(self, learner: Learner, updates: int) -> None:
        """One point: the mean loss over the interval and all ranks, the rate, the throughput, the rehearsal."""
        self.nonfinite()
        metrics = {
            **self._parts.progress.interval(updates),
            "train/learning_rate": learner.rate,
            "train/nonfinite_steps": self._parts.finite.steps,
            "train/rows_trained": self._parts.progress.cost.trained,
            "train/rows_forward": self._parts.progress.cost.forward,
            **{f"train/penalty/{name}": value.item() for name, value in self._parts.method.penalties.items()},
        }
        self.monitor.log_interval(metrics, self._parts.rehearsal, self._parts.progress.steps)

    def end_task(self, task: Task, checkpoint_seconds: float) -> None:
        """
        Args:
            checkpoint_seconds: that training has waited for checkpoints.
        Raises:
            ValueError: too many exemplars are stored more than once.
        """
        metrics = self._parts.scores.latest()
        if self._parts.rehearsal is not None:
            metrics["rehearsal/duplicate_share"] = self._parts.rehearsal.duplicate_share()
            if not self._allow_duplicates:
                refuse_duplicates(metrics["rehearsal/duplicate_share"], task.index)
        metrics["time/train_seconds"] = self._parts.progress.clock.seconds
        metrics["time/checkpoint_seconds"] = checkpoint_seconds
        self._parts.progress.history.append(self._entry(task))
        self.monitor.end_task(task.index, task.name, metrics, self._parts.progress.steps, self._parts.scores.metric)

    def nonfinite(self) -> None:
        """Say so if steps were not finite.

        Raises:
            NonFiniteError: the run is to stop then.
        """
        if (line := self._parts.finite.look()) is not None:
            self.monitor.say(line)

    def _entry(self, task: Task) -> dict[str, Any]:
        """Where the run is at the end of a task, with the exemplars of each stratum on all ranks together."""
        entry: dict[str, Any] = {
            "task": task.index,
            "seconds": self._parts.progress.clock.seconds,
            "acc": self._parts.scores.main.mean_after(task.index),
        }
        if self._parts.rehearsal is not None:
            entry["counts"] = total_counts(self._parts.rehearsal, self._parts.world)
        return entry
