"""Opens a tracker, falls back to a store in the run directory, and copies that store to a server later."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from drb.tracking.buffered import BufferedTracker
from drb.tracking.store import (
    DeletedRunError,
    LockedError,
    MlflowRun,
    connect,
    create_run,
    import_quietly,
    is_server,
    origin_of,
    reopen_run,
    resolve_uri,
    sqlite_uri,
    why_not_imported,
)
from drb.tracking.system import measure_system
from drb.tracking.tracker import BATCH, PARENT, NullTracker, Point, Tracker, one_line

_log = logging.getLogger(__name__)
_OFFLINE_FILE = "mlflow_offline.db"
_EXPERIMENT = "drb.experiment"  # tag of an offline run: the experiment that it belongs to on the server
_ONLINE_RUN = "drb.online_run_id"  # tag of an offline run: the run on the server that it is a part of


class UnknownRunError(ValueError):
    """The run to continue is not in the store, or was deleted there."""


def open_tracker(
    enabled: bool,
    *,
    experiment: str,
    run_name: str,
    run_dir: str | Path,
    uri: str | None = None,
    run_id: str | None = None,
    flush_seconds: float = 10.0,
    system_seconds: float | None = None,
) -> Tracker:
    """Start a run in MLflow, or continue one.

    Args:
        enabled: if False, a `NullTracker` is returned; pass False on all ranks but one.
        run_dir: where metrics are kept if the server is away.
        uri: an MLflow store; None means MLFLOW_TRACKING_URI, or else mlflow.db in the working directory.
        run_id: `Tracker.run_id` of the run to continue. Each metric continues after the last step that the store
            contains, so a run resumed from an older checkpoint logs no step twice.
        flush_seconds: metrics are written at least this often while more are logged.
        system_seconds: how often MLflow measures this node's processors, memory, disk, network and GPUs; None: never.
    Raises:
        UnknownRunError: the store does not have run_id, or it was deleted there.
        ValueError: MLflow is not installed, or the store cannot be used. A server that does not answer and a database
            that another process keeps locked are no errors: metrics are kept in run_dir.
    """
    if not enabled:
        return NullTracker()
    import_quietly()
    given_by, uri = origin_of(uri), resolve_uri(uri)
    go_offline = partial(_open_offline, Path(run_dir), uri, experiment, run_name)
    try:
        if run_id is not None and _offline_file(run_dir).exists():
            run_id = sync(run_dir, uri)  # what an earlier failure of the server left behind comes first
        run = reopen_run(uri, run_id) if run_id else create_run(uri, experiment, run_name)
    except Exception as error:  # MLflow's, the HTTP client's, the database's
        is_deleted = isinstance(error, DeletedRunError)
        if run_id is not None and (is_deleted or getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"):
            raise UnknownRunError(f"{uri} does not have the run {run_id} any more: {one_line(error)}") from error
        if isinstance(error, ImportError):
            raise ValueError(why_not_imported(error)) from error
        if not (is_server(uri) or isinstance(error, LockedError)):
            raise ValueError(
                f"cannot track in {uri}, which {given_by} names: {one_line(error)}; change that, or train with "
                "tracking=none"
            ) from error
        return BufferedTracker(go_offline(run_id, error), None, flush_seconds=flush_seconds)
    stop = None if system_seconds is None else measure_system(uri, run.run_id, system_seconds)
    return BufferedTracker(run, partial(go_offline, run.run_id), flush_seconds=flush_seconds, at_end=stop)


def sync(run_dir: str | Path, uri: str | None = None) -> str:
    """Copy to the server what a run kept in its directory while the server was away. Nothing is copied twice.

    Args:
        uri: see `open_tracker`.
    Returns:
        The run's id in the store at uri.
    Raises:
        ValueError: nothing was kept in the directory.
    """
    import_quietly()
    offline = _offline_run(Path(run_dir))
    if offline is None:
        raise ValueError(f"{run_dir} holds no {_OFFLINE_FILE}: nothing was kept there to be copied")
    uri = resolve_uri(uri)
    online_id = offline.tags.get(_ONLINE_RUN)
    if online_id is None:
        online = create_run(uri, offline.tags[_EXPERIMENT], offline.name)
        offline.tag(_ONLINE_RUN, online.run_id)
    else:
        online = MlflowRun(connect(uri), uri, online_id)
    online.write_params(offline.params)
    online.write_tags(_copied(offline.tags))
    points = (point for name in offline.last_steps() for point in _missing(name, offline, online))
    while batch := list(islice(points, BATCH)):
        online.write_points(batch)
    offline.copy_files(online)
    if online.status == "RUNNING" and offline.status != "RUNNING":
        online.end(offline.status)
    return online.run_id


def _copied(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that are the run's own, and not of the store that it was kept in."""
    return {n: v for n, v in tags.items() if not n.startswith(("mlflow.", "drb.")) or n == PARENT}


def _missing(name: str, offline: MlflowRun, online: MlflowRun) -> list[Point]:
    known = {point.step for point in online.history(name)}
    return [point for point in offline.history(name) if point.step not in known]


def _open_offline(
    run_dir: Path, uri: str, experiment: str, run_name: str, run_id: str | None, error: Exception
) -> MlflowRun:
    file = _offline_file(run_dir)
    _log.warning(
        "tracking: %s failed (%s); from here on metrics are kept in %s, to be copied with "
        'python -c "from drb.tracking import sync; sync(%r, %r)"',
        *(uri, _reason(error), file, str(run_dir), uri),
    )
    run = _offline_run(run_dir)
    if run is not None:
        return reopen_run(run.uri, run.run_id)
    run = create_run(sqlite_uri(file), experiment, run_name)
    run.tag(_EXPERIMENT, experiment)
    if run_id is not None:
        run.tag(_ONLINE_RUN, run_id)
    return run


def _reason(error: BaseException) -> str:
    """Why a server failed, and what to change if it is the proxy or the password."""
    chain = list(_causes(error))
    if any(type(cause).__name__ == "ProxyError" for cause in chain):
        return "the proxy of HTTP_PROXY or HTTPS_PROXY does not answer; unset it, or add the server's host to NO_PROXY"
    if re.search(r"\b40[13]\b", str(error)):
        return f"{one_line(error)}: the server refuses MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or _TOKEN"
    return one_line(chain[-1])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _offline_run(run_dir: Path) -> MlflowRun | None:
    """The run in a run directory's own store; None if there is none."""
    if not _offline_file(run_dir).exists():
        return None
    uri = sqlite_uri(_offline_file(run_dir))
    client = connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, filter_string=f"tags.`{_EXPERIMENT}` != ''", max_results=1)
    return MlflowRun(client, uri, found[0].info.run_id) if found else None


def _offline_file(run_dir: str | Path) -> Path:
    return Path(run_dir) / _OFFLINE_FILE
