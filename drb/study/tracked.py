"""A study in the tracker: its parent run, which its runs know by two variables in their environment."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from drb.program.config import compose_config
from drb.program.summary import write_atomically
from drb.study.definition import Study
from drb.study.results import Result
from drb.study.scaling_plot import by_ranks, efficiencies
from drb.study.statistics import PointResults
from drb.tracking import UnknownRunError
from drb.tracking.study import StudyRun, open_study_run
from drb.tracking.tracker import Status

_log = logging.getLogger(__name__)
_RECORD = "tracking.json"


def open_tracked_study(study: Study, folder: Path) -> StudyRun | None:
    """The study's run in MLflow, the same however often the study is started; None without MLflow.

    Raises:
        ValueError: the store cannot be used.
    """
    config, _ = compose_config(study.points[0].settings, study.name)
    tracking = config.tracking
    if not tracking.enabled or tracking.name != "mlflow":
        return None
    uri = getattr(tracking, "uri", None)
    try:
        run = open_study_run(uri, tracking.experiment, study.title, study.name, _recorded(folder))
    except UnknownRunError as error:
        _log.warning("tracking: %s; the study is tracked as a new run", error)
        run = open_study_run(uri, tracking.experiment, study.title, study.name, None)
    write_atomically(folder / _RECORD, {"run_id": run.run_id})
    return run


def variables(study: Study, run: StudyRun | None) -> dict[str, str]:
    """What the environment of the study's runs tells them: see `drb.program.tracker_run.tags_of`."""
    return {"DRB_STUDY": study.name, **({} if run is None else {"DRB_PARENT_RUN": run.run_id})}


def publish(
    run: StudyRun, points: Sequence[PointResults], files: Sequence[Path], table: str, status: Status | None
) -> None:
    """Copy page, plots and table into the study's run, and each scaling curve into a run below it.

    status: what the study's run ends with; None if the study goes on, and with it that run.
    """
    run.publish(files, table)
    run.remove_curves()
    for name, curve in _scaling_curves(points).items():
        run.publish_curve(f"scaling: {name}", curve)
    if status is not None:
        run.end(status)


def status_of_study(results: Sequence[Result], *, is_running: bool) -> Status | None:
    """What the tracker shows: FINISHED, FAILED if a run has, KILLED if it was stopped; None if it goes on."""
    if all(result.status == "done" for result in results):
        return "FINISHED"
    if is_running or any(result.job for result in results):
        return None
    return "FAILED" if any(result.status == "failed" for result in results) else "KILLED"


def _scaling_curves(points: Sequence[PointResults]) -> dict[str, dict[int, dict[str, float]]]:
    """Throughput, efficiency and time to the target by ranks, for the points that differ in their ranks alone."""
    curves: dict[str, dict[int, dict[str, float]]] = {}
    scaled = [point for point in points if " · W=" in point.point.label]
    for name, line in by_ranks(scaled, "samples_per_second").items():
        shares = efficiencies(line)
        curves[name] = {
            ranks: {"scaling/samples_per_second": speed.mean, "scaling/efficiency": shares[ranks]}
            for ranks, speed in line.items()
        }
    for name, line in by_ranks(scaled, "seconds_to_target").items():
        for ranks, seconds in line.items():
            curves[name][ranks]["scaling/seconds_to_target"] = seconds.mean
    return curves


def _recorded(folder: Path) -> str | None:
    try:
        run_id: str = json.loads((folder / _RECORD).read_text())["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run_id
