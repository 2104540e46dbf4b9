"""MLflow's own measurements of the node: processors, memory, disk, network and GPUs, in the tab System metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)


def measure_system(uri: str, run_id: str, every_seconds: float) -> Callable[[], None]:
    """Measure on a thread of MLflow's until the returned function is called. A failing store is said elsewhere."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    try:
        monitor = SystemMetricsMonitor(run_id, every_seconds, resume_logging=True, tracking_uri=uri)
    except ImportError as error:
        _log.warning("tracking: no system metrics (%s); pip install psutil, or set tracking.system_seconds=null", error)
        return lambda: None
    monitor.start()
    stop: Callable[[], None] = monitor.finish
    return stop
