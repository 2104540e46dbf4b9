"""One run in one MLflow store. `mlflow` is imported inside functions.

It uses MlflowClient and never the fluent API, which has one active run per process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from drb.tracking.inputs import copy_data_and_model, dataset_input, log_model
from drb.tracking.tracker import PARENT, Data, Point

_log = logging.getLogger(__name__)
_MAX_PARAMS = 100  # that MLflow takes at a time
_LOCKED_S, _MADE_S = 15.0, 120.0  # how long to wait for a local store that another process has locked, or is making
SETTING, VARIABLE = "tracking.uri", "MLFLOW_TRACKING_URI"
_DEFAULT_URI = "sqlite:///mlflow.db"
# or MLflow's page shows the runs as 'Evaluation runs' of a language model
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits for minutes on a server that is away
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
}


class DeletedRunError(LookupError):
    """The run was deleted in MLflow."""


class LockedError(OSError):
    """Another process keeps a local store locked."""


class MlflowRun:
    """A run in an MLflow store; implements `drb.tracking.tracker.Run`."""

    def __init__(self, client: Any, uri: str, run_id: str) -> None:
        self._client = client
        self._run = client.get_run(run_id)
        self.uri = uri
        self.run_id = run_id

    @property
    def url(self) -> str:
        if not is_server(self.uri):
            return self.uri
        return f"{self.uri.rstrip('/')}/#/experiments/{self._run.info.experiment_id}/runs/{self.run_id}"

    @property
    def name(self) -> str:
        return str(self._run.info.run_name)

    @property
    def status(self) -> str:
        return str(self._run.info.status)

    @property
    def tags(self) -> dict[str, str]:
        return dict(self._run.data.tags)

    @property
    def params(self) -> dict[str, str]:
        return dict(self._run.data.params)

    def last_steps(self) -> dict[str, int]:
        # MLflow keeps the value of the highest step as a metric's latest; only the proto form tells that step
        return {metric.key: metric.step for metric in self._run.data.to_proto().metrics}

    def history(self, name: str) -> list[Point]:
        metrics = self._client.get_metric_history(self.run_id, name)
        return [Point(name, metric.value, metric.timestamp, metric.step) for metric in metrics]

    def write_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.timestamp_ms, point.step) for point in points]
        self._client.log_batch(self.run_id, metrics=metrics)

    def write_params(self, params: Mapping[str, str]) -> None:
        """Write the params that the run does not have yet, because MLflow refuses to change a param."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        changed = sorted(name for name, value in params.items() if known.get(name, value) != value)
        if changed:
            _log.warning("tracking: MLflow keeps the first value of params that have changed: %s", ", ".join(changed))
        new = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(new), _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=new[start : start + _MAX_PARAMS])

    def write_artifact(self, path: Path, folder: str | None) -> None:
        self._client.log_artifact(self.run_id, str(path), folder)

    def copy_files(self, to: MlflowRun) -> None:
        """Give another run this run's artifacts, its data set and its model. Only for a local store."""
        copy_data_and_model(self._client, self._run, to._client, to._run)
        if self._client.list_artifacts(self.run_id):
            to._client.log_artifacts(to.run_id, self._client.download_artifacts(self.run_id, ""))

    def tag(self, name: str, value: str) -> None:
        self._client.set_tag(self.run_id, name, value)

    def write_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def write_dataset(self, data: Data) -> None:
        self._client.log_inputs(self.run_id, [dataset_input(data)])

    def write_model(self, name: str, files: Sequence[Path], step: int) -> None:
        log_model(self._client, self._run, name, files, step)

    def delete_nested(self, tags: Mapping[str, str]) -> None:
        """Delete the runs nested below this one that have these tags."""
        wanted = {PARENT: self.run_id, **tags}
        text = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        for run in self._client.search_runs([self._run.info.experiment_id], text):
            self._client.delete_run(run.info.run_id)

    def end(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)


def create_run(uri: str, experiment: str, run_name: str) -> MlflowRun:
    client = connect(uri)
    run = client.create_run(_experiment_id(client, uri, experiment), run_name=run_name)
    return MlflowRun(client, uri, run.info.run_id)


def reopen_run(uri: str, run_id: str) -> MlflowRun:
    client = connect(uri)
    run = client.get_run(run_id)
    if run.info.lifecycle_stage == "deleted":
        raise DeletedRunError(f"the run {run_id} was deleted")
    client.update_run(run_id, status="RUNNING")
    return MlflowRun(client, uri, run_id)


def connect(uri: str) -> Any:
    """An MlflowClient. One process at a time creates a local database, or migrates it to this MLflow's schema."""
    import_quietly()
    with _quiet_warnings():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        with _alone(uri):
            _require_unlocked(uri)
            try:
                return MlflowClient(tracking_uri=uri)
            except MlflowException as error:
                if not uri.startswith("sqlite:") or "out-of-date" not in str(error):
                    raise
                _upgrade(uri)
                return MlflowClient(tracking_uri=uri)


def import_quietly() -> None:
    """Import MLflow without telemetry and without its messages.

    Raises:
        ValueError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet_warnings():
            from mlflow import MlflowClient  # noqa: F401
    except ImportError as error:
        raise ValueError(why_not_imported(error)) from None
    for name, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
        logging.getLogger(name).setLevel(level)


def why_not_imported(error: ImportError) -> str:
    """Whether MLflow is not there, lacks something, or is hidden by a file of the same name as one of its modules."""
    missing = (error.name or "mlflow").partition(".")[0]
    spec = None if missing == "mlflow" and isinstance(error, ModuleNotFoundError) else find_spec(missing)
    if spec is not None:
        return (
            f"MLflow is installed but cannot be imported ({error}): {missing} is taken from {spec.origin or 'a folder'}"
            "; rename that if it is yours, or train with tracking=none"
        )
    return f"tracking needs MLflow ({error}); pip install 'drb-train[train]', or train with tracking=none"


def resolve_uri(uri: str | None) -> str:
    """The store to use: the given one, MLFLOW_TRACKING_URI, or mlflow.db in the working directory.

    Raises:
        ValueError: not the URI of a server or a database.
    """
    from mlflow.environment_variables import MLFLOW_TRACKING_URI

    given_by = origin_of(uri)
    uri = uri or MLFLOW_TRACKING_URI.get() or _DEFAULT_URI
    if "://" not in uri or uri.startswith("file:"):
        raise ValueError(
            f"{given_by} must be sqlite:///FILE, http://HOST:PORT or another store that MLflow knows, got {uri!r}; "
            f"{'change it' if given_by == SETTING else f'set {SETTING}, which comes first, or unset it'}"
        )
    path = sqlite_path(uri)
    return uri if path is None else sqlite_uri(path)


def origin_of(uri: str | None) -> str:
    """What says which store is used: the setting, or the environment's variable where the setting is null."""
    return SETTING if uri or not os.environ.get(VARIABLE) else VARIABLE


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def sqlite_uri(path: Path) -> str:
    return f"sqlite:///{path.resolve()}"


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _experiment_id(client: Any, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    path = sqlite_path(uri)
    # beside the database, not where this process happens to run
    artifacts = None if path is None else (path.parent / "mlruns" / name).as_uri()
    try:
        existing = client.get_experiment_by_name(name)
        return str(existing.experiment_id if existing else client.create_experiment(name, artifacts, EXPERIMENT_TAGS))
    except MlflowException:  # another process may have made it in between
        existing = client.get_experiment_by_name(name)
        if existing is None:
            raise
        return str(existing.experiment_id)


def _upgrade(uri: str) -> None:
    from mlflow.db import commands

    _log.warning("bringing %s to the schema of the installed MLflow", uri)
    commands.main(["upgrade", uri], standalone_mode=False)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Hold a lock beside a local database, because processes that create the same one at once would crash."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        deadline = time.monotonic() + _MADE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LockedError(f"another process has held {lock.name} for {_MADE_S:.0f} s") from None
            time.sleep(0.1)
        yield


def _require_unlocked(uri: str) -> None:
    """Raise LockedError if another process keeps a local database locked, which MLflow would wait a minute for."""
    path = sqlite_path(uri)
    if path is None or not path.is_file():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_S)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE").close()
            connection.rollback()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                return  # what else is wrong with it MLflow says
            raise LockedError(f"another process has kept {path} locked for {_LOCKED_S:.0f} s") from None
        except sqlite3.DatabaseError:
            return


@contextlib.contextmanager
def _quiet_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
