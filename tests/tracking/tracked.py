"""Runs at an MLflow store, and what it has of them."""

from drb.tracking import open_tracker
from drb.tracking.store import connect


def open_at(uri, run_dir, **options):
    return open_tracker(True, experiment="digits", run_name="er", run_dir=run_dir, uri=uri, **options)


def stored(uri, run_id):
    return connect(uri).get_run(run_id)


def steps(uri, run_id, name):
    return [metric.step for metric in connect(uri).get_metric_history(run_id, name)]
