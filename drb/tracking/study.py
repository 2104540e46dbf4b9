"""A study in MLflow: a parent run, below which its runs are nested, with the study's page, plots and table.

A curve is a nested run, too: MLflow draws metrics against a step, which here is the number of ranks, so curves of
several studies can be laid over one another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from drb.tracking.opening import UnknownRunError
from drb.tracking.store import DeletedRunError, MlflowRun, create_run, import_quietly, reopen_run, resolve_uri
from drb.tracking.tracker import PARENT, Point, Status, one_line, valid_name

_KIND = "drb.kind"  # tag: study, curve; other runs have none


class StudyRun:
    """The parent run of a study. Every method may block, and raises what the store raises."""

    def __init__(self, run: MlflowRun, experiment: str) -> None:
        self._run = run
        self._experiment = experiment

    @property
    def run_id(self) -> str:
        return self._run.run_id

    def publish(self, files: Sequence[Path], table: str) -> None:
        """Copy the study's files into the run. table: Markdown, which is shown as the run's description."""
        for file in files:
            self._run.write_artifact(file, None)
        self._run.tag("mlflow.note.content", table)

    def publish_curve(self, name: str, curve: Mapping[int, Mapping[str, float]]) -> None:
        """A nested run whose metrics have the keys of `curve` as their steps, for example numbers of ranks."""
        run = create_run(self._run.uri, self._experiment, name)
        run.write_tags({PARENT: self.run_id, _KIND: "curve", "study": self._run.tags.get("study", "")})
        now_ms = int(time.time() * 1000)
        run.write_points(
            [Point(valid_name(n), value, now_ms, x) for x, metrics in curve.items() for n, value in metrics.items()]
        )
        run.end("FINISHED")

    def remove_curves(self) -> None:
        """Delete the curves of an earlier end of the study."""
        self._run.delete_nested({_KIND: "curve"})

    def end(self, status: Status) -> None:
        self._run.end(status)


def open_study_run(uri: str | None, experiment: str, title: str, study: str, run_id: str | None) -> StudyRun:
    """Start the parent run of a study, or go on with `run_id`, that of an earlier start.

    Raises:
        UnknownRunError: there is no run_id any more. ValueError: the store cannot be used.
    """
    import_quietly()
    uri = resolve_uri(uri)
    try:
        run = reopen_run(uri, run_id) if run_id else create_run(uri, experiment, title)
        run.write_tags({_KIND: "study", "study": study})
    except Exception as error:  # MLflow's, the HTTP client's, the database's
        is_gone = isinstance(error, DeletedRunError)
        if run_id is not None and (is_gone or getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"):
            raise UnknownRunError(f"{uri} does not have the run {run_id} any more") from error
        raise ValueError(
            f"the study cannot be tracked in {uri}: {one_line(error)}; tracking=none goes without"
        ) from error
    return StudyRun(run, experiment)
