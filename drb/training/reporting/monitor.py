"""What a run shows and logs while it trains: its progress and one line per task on rank 0, metrics to the tracker.

Progress is shown by the training thread, at most three times per second: a thread of its own would take CPU time from
training at any moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from drb.data.scenarios.task import Task
from drb.tracking import NullTracker, Tracker
from drb.training.objectives.objective import Metric
from drb.training.reporting.charts import constants, interval_charts, task_charts
from drb.training.reporting.live import Live, LiveView

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

_REDRAW_S = 0.3  # at least from one look to the next, and
_DRAWING_SHARE = 0.005  # of the time, at most, goes into looking and drawing


class Console(Protocol):
    """Where lines and progress go; `drb.program.console` has those for terminals and for files.

    begin: training on a task begins or goes on. show: called a few times per second with what tells how it stands; a
    console that does not draw at that moment need not look. end: it is over.
    """

    def say(self, line: str) -> None: ...
    def begin(self) -> None: ...
    def show(self, look: Callable[[], Live]) -> None: ...
    def end(self) -> None: ...


class Monitor:
    """One per rank. Without a console and a tracker, as on ranks above 0, it does nothing.

    class_names: of the classes that exemplars are grouped by, for the live view; where there are none, their numbers.
    """

    def __init__(
        self, console: Console | None = None, tracker: Tracker | None = None, *, class_names: Sequence[str] = ()
    ) -> None:
        self.class_names = class_names
        self._console = console
        self._tracker = tracker or NullTracker()
        self._view: LiveView | None = None
        self._next_draw = 0.0
        self._knows_constants = False

    def begin_task(self, view: LiveView) -> None:
        """Training on a task begins or goes on. view: how it stands."""
        self._view = view
        if self._console is not None:
            self._console.begin()

    def advance(self, minibatches: int) -> None:
        """So many more minibatches are done. Called at every step: it costs well below a microsecond."""
        if self._console is None or self._view is None:
            return
        self._view.completed += minibatches
        if (now := time.perf_counter()) >= self._next_draw:
            self._console.show(self._view.read)
            ended = time.perf_counter()
            self._next_draw = ended + max(_REDRAW_S, (ended - now) / _DRAWING_SHARE)

    def say(self, line: str) -> None:
        """Something worth knowing while training goes on."""
        if self._console is not None:
            self._console.say(line)

    def log_interval(self, metrics: dict[str, float], rehearsal: Rehearsal | None, step: int) -> None:
        """One point of training: `train/loss`, `train/samples_per_second` …, and how the rehearsal does."""
        if isinstance(self._tracker, NullTracker):
            return
        if not self._knows_constants:
            self._knows_constants = True
            self._tracker.log_params(constants(rehearsal))
        self._tracker.log_metrics(interval_charts(metrics, rehearsal), step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._tracker.log_metrics(metrics, step)

    def end_task(self, task: Task, metrics: dict[str, float], step: int, samples: int, metric: Metric) -> None:
        """The evaluation after a task.

        Args:
            step: optimisation steps so far. samples: that were trained on so far, without exemplars.
            metric: the one that counts.
        """
        self._tracker.log_metrics(task_charts(metrics, metric.name), step)
        mean = metrics[f"{metric.name}/mean"]
        self._tracker.log_metrics({f"{metric.name}/by_task": mean}, task.number)
        self._tracker.log_metrics({f"{metric.name}/by_samples": mean}, samples)
        self._tracker.flush()
        if self._console is not None:
            self._console.end()
            self._console.say(
                f"after {task}: {metric.name} {metric.show(metrics[f'{metric.name}/mean'])} over all "
                f"tasks so far, {metric.show(metrics[f'{metric.name}/task_{task.number}'])} on this one, "
                f"{metrics['time/train_seconds']:.1f} s of training"
            )
