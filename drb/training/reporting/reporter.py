"""What a trainer says: a point every few steps, a line and an entry at a task's end, and a word when a step was bad."""

from __future__ import annotations

from typing import Any

from drb.data.scenarios.task import Task
from drb.training.components import Components
from drb.training.learner import Learner
from drb.training.reporting.exemplars import refuse_duplicates, stored_when, total_counts
from drb.training.reporting.live import LiveView
from drb.training.reporting.monitor import Monitor


class Reporter:
    """One per trainer; its methods are collective."""

    def __init__(self, components: Components, monitor: Monitor, *, allow_duplicates: bool) -> None:
        self.monitor = monitor
        self._components = components
        self._progress = components.progress
        self._allow_duplicates = allow_duplicates
        self._view = LiveView(components.progress, components.rehearsal)

    def begin_phase(self, task: Task, completed: int, total: int, epochs: int) -> None:
        """Training on a task begins or goes on: so many minibatches of `total`, in so many epochs, are done."""
        self._view.begin(task, completed, total, epochs, self.monitor.class_names)
        self.monitor.begin_task(self._view)

    def interval(self, learner: Learner, updates: int) -> None:
        """One point: the mean loss over the interval and all ranks, the rate, the throughput, the rehearsal."""
        self.nonfinite()
        metrics = {
            **self._progress.interval(updates),
            "train/learning_rate": learner.rate,
            "train/nonfinite_steps": self._components.finite.steps,
            **{f"train/penalty/{name}": value.item() for name, value in self._components.method.penalties.items()},
        }
        self._view.loss = metrics["train/loss"]
        self.monitor.log_interval(metrics, self._components.rehearsal, self._progress.steps)

    def end_task(self, task: Task, checkpoint_seconds: float) -> None:
        """Log the evaluation after a task, and add it and the exemplars that are stored to the run's history.

        Args:
            checkpoint_seconds: that training has waited for checkpoints.
        Raises:
            ValueError: too many exemplars are stored more than once.
        """
        metrics = self._components.scores.latest()
        if self._components.rehearsal is not None:
            metrics["rehearsal/duplicate_share"] = self._components.rehearsal.duplicate_share()
            if not self._allow_duplicates:
                refuse_duplicates(metrics["rehearsal/duplicate_share"], task.number)
        metrics["time/train_seconds"] = self._progress.clock.seconds
        metrics["time/checkpoint_seconds"] = checkpoint_seconds
        cost = self._progress.end_task(self._components.method.num_bytes + self._late_bytes)
        metrics |= {f"cost/{name}": value for name, value in cost.items()}
        self._progress.history.append(self._entry(task))
        metric = self._components.scores.metric
        self._view.score = f"{metric.name} {metric.show(metrics[f'{metric.name}/mean'])} after task {task.number}"
        self.monitor.end_task(task, metrics, self._progress.steps, self._progress.rows, metric)

    def during(self, task: Task, learner: Learner) -> None:
        """Evaluate in the midst of a task, off the clock."""
        seconds = self._progress.clock.seconds
        with self._progress.clock.paused():
            value = self._components.scores.during(task, learner.network, self._progress.steps)
        self._progress.during_seconds.append(seconds)
        metric = self._components.scores.metric
        self._view.score = f"{metric.name} {metric.show(value)} at step {self._progress.steps}"
        self.monitor.log({f"{metric.name}/during": value}, self._progress.steps)

    def nonfinite(self) -> None:
        """Say so if steps were not finite.

        Raises:
            NonFiniteError: the run is to stop then.
        """
        if (line := self._components.finite.look()) is not None:
            self.monitor.say(line)

    @property
    def _late_bytes(self) -> int:
        """Bytes that the method's late fields, such as stored outputs, take of a rank's buffer."""
        rehearsal = self._components.rehearsal
        return 0 if rehearsal is None else int(rehearsal.stats().get("late_bytes", 0))

    def _entry(self, task: Task) -> dict[str, Any]:
        """Where the run is at the end of a task, with the exemplars of each stratum on all ranks together."""
        entry: dict[str, Any] = {
            "task": task.number,
            "seconds": self._progress.clock.seconds,
            "acc": self._components.scores.main.mean_after(task.index),
        }
        if self._components.rehearsal is not None:
            entry["counts"] = total_counts(self._components.rehearsal, self._components.world)
            entry["stored_when"] = stored_when(self._components.rehearsal, self._components.world)
        return entry
