"""Logs a run to MLflow from one rank, without slowing training and without ever ending it.

`open_tracker` returns a `Tracker`: a `NullTracker` if tracking is off and on all ranks but one, otherwise a tracker
that buffers metrics and writes them from a thread of its own. If a server stops answering, drb says so once, and
everything from then on goes to `mlflow_offline.db` in the run directory. This is an MLflow store, which `mlflow ui` can
open and which `sync` copies to the server later. Only this package knows MLflow, and it imports MLflow when a tracker
is opened, which takes seconds.
"""

from drb.registry import Registry
from drb.tracking.builder import TrackerBuilder
from drb.tracking.opening import UnknownRunError, open_tracker, sync
from drb.tracking.tracker import PARENT, Data, NullTracker, Status, Tracker

TRACKERS: Registry[TrackerBuilder] = Registry("tracker", TrackerBuilder, __name__, "drb.trackers")

__all__ = [
    "PARENT",
    "TRACKERS",
    "Data",
    "NullTracker",
    "Status",
    "Tracker",
    "TrackerBuilder",
    "UnknownRunError",
    "open_tracker",
    "sync",
]
