"""Logging of one run to MLflow, from one rank, without slowing training and without ever ending it.

`open_tracker` gives a `Tracker`: a `NullTracker` where tracking is off (and on all ranks but one), else one that
buffers metrics and writes them from a thread of its own. If a server stops answering, that is said once and
everything from then on goes to `mlflow_offline.db` in the run directory, an MLflow store that `mlflow ui` opens and
that `sync` copies to the server later. Only this package knows MLflow, and imports it when a tracker is opened:
that takes seconds.
"""

from drb.tracking.opening import open_tracker, sync
from drb.tracking.tracker import NullTracker, Status, Tracker

__all__ = ["NullTracker", "Status", "Tracker", "open_tracker", "sync"]
