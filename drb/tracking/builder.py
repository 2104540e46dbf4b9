"""What a tracker is chosen by: its options, and how a run's tracker is opened."""

from __future__ import annotations

import abc
from pathlib import Path

from drb.options import setting
from drb.tracking.opening import open_tracker
from drb.tracking.tracker import NullTracker, Tracker
from drb.variant import Variant


class TrackerBuilder(Variant):
    """Opens the tracker of a run, on rank 0 alone; the other ranks have a `NullTracker`."""

    @abc.abstractmethod
    def open(self, experiment: str, run_name: str, run_dir: Path, run_id: str | None) -> Tracker:
        """Start to track a run, or go on with the tracker's run `run_id` (`Tracker.run_id` of an earlier start).

        Args:
            experiment: what the run belongs to.
            run_dir: where the run keeps its files.
        Raises:
            UnknownRunError: there is no run_id any more. ValueError: nothing can be tracked as the options say.
        """


class Mlflow(TrackerBuilder):
    """MLflow: a store on disk or a server.

    uri: a store or a server; None takes MLFLOW_TRACKING_URI, else mlflow.db in the working directory.
    system_seconds: how often MLflow measures rank 0's node (its tab System metrics); None: never.
    """

    name = "mlflow"
    uri: str | None = None
    system_seconds: float | None = setting(5.0, above=0)

    def open(self, experiment: str, run_name: str, run_dir: Path, run_id: str | None) -> Tracker:
        return open_tracker(
            True,
            experiment=experiment,
            run_name=run_name,
            run_dir=run_dir,
            uri=self.uri,
            run_id=run_id,
            system_seconds=self.system_seconds,
        )


class Nothing(TrackerBuilder):
    """No tracking: summary.json in the run directory, and no more."""

    name = "none"

    def open(self, experiment: str, run_name: str, run_dir: Path, run_id: str | None) -> Tracker:
        return NullTracker()
