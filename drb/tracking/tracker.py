"""Trackers, which the rest of drb calls. Nothing here knows MLflow.

Metrics are buffered. A worker thread writes them when there are a thousand, every few seconds, or when `flush` is
called (between tasks, outside timed regions). A store that fails is replaced, once, by one in the run directory.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)
BATCH = 1000  # the most metrics that MLflow takes at a time
_MAX_NAME, _MAX_VALUE = 250, 6000  # MLflow's limits, in characters


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    timestamp_ms: int
    step: int


class Run(Protocol):
    """A run in some store. Every method may block, and raises whatever the store raises."""

    @property
    def run_id(self) -> str: ...

    @property
    def url(self) -> str: ...

    def last_steps(self) -> dict[str, int]:
        """The last step of each metric in the store, by the metric's name."""

    def write_points(self, points: Sequence[Point]) -> None: ...

    def write_params(self, params: Mapping[str, str]) -> None: ...

    def write_artifact(self, path: Path, folder: str | None) -> None: ...

    def end(self, status: Status) -> None: ...


class Tracker(Protocol):
    """Where a run's params, metrics and files go. A context manager that sets the run's status at its end."""

    @property
    def run_id(self) -> str | None:
        """The id that a checkpoint saves, so that a resumed run continues this one."""

    @property
    def url(self) -> str | None:
        """The run's page on a server, or a local store's URI for `mlflow ui --backend-store-uri`."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings, which may be nested; names are joined by dots. A param keeps its first value for ever."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics. They are buffered, which takes microseconds. Characters that MLflow forbids in names become `_`.

        In a resumed run, steps that the store already contains are left out.
        """

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run in the background. Do not change it before the next `flush`."""

    def start_flush(self) -> Callable[[], None]:
        """Start writing what was logged so far. The returned function, on any thread, waits until it is written."""

    def flush(self) -> None:
        """Wait until everything is written."""
        self.start_flush()()

    def close(self, status: Status) -> None:
        """Write everything and set the run's status. Idempotent: the first call counts."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(status_of(error))


class NullTracker(Tracker):
    """Tracks nothing, because tracking is off or another rank does it."""

    @property
    def run_id(self) -> None:
        return None

    @property
    def url(self) -> None:
        return None

    def log_params(self, params: Mapping[str, object]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        pass

    def start_flush(self) -> Callable[[], None]:
        return lambda: None

    def close(self, status: Status) -> None:
        pass


class BufferedTracker(Tracker):
    """Tracks into a store. Owns one worker thread, which alone talks to the store.

    Args:
        run: the run in its store.
        go_offline: returns the run to use instead if the store fails; called at most once, on the worker. None if the
            store is that run already.
        flush_seconds: metrics are written at least this often while more are logged.
    """

    def __init__(self, run: Run, go_offline: Callable[[Exception], Run] | None, *, flush_seconds: float = 10.0) -> None:
        self._run: Run | None = run
        self._run_id, self._url = run.run_id, run.url
        self._go_offline = go_offline
        self._flush_seconds = flush_seconds
        self._written_until = run.last_steps()
        self._points: list[Point] = []
        self._params: dict[str, str] = {}
        self._last_write = time.monotonic()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="drb-tracking")
        self._writes: list[Future[None]] = []
        self._closed = False

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def url(self) -> str:
        return self._url

    def log_params(self, params: Mapping[str, object]) -> None:
        texts = {valid_name(name): _shorten(str(value)) for name, value in _flatten(params)}
        self._params |= texts
        self._submit(lambda run: run.write_params(texts))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        for key, value in metrics.items():
            name = valid_name(key)
            if step > self._written_until.get(name, -1):
                self._points.append(Point(name, float(value), now_ms, step))
        if len(self._points) >= BATCH or time.monotonic() - self._last_write >= self._flush_seconds:
            self._write_points()

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        self._submit(partial(_write_artifact, Path(path), folder))

    def start_flush(self) -> Callable[[], None]:
        self._write_points()
        writes, self._writes = self._writes, []

        def wait() -> None:
            for write in writes:
                write.result()

        return wait

    def close(self, status: Status) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._write_points()
            self._submit(lambda run: run.end(status))
            self.flush()
        finally:
            self._worker.shutdown()

    def _write_points(self) -> None:
        points, self._points = self._points, []
        self._last_write = time.monotonic()
        for start in range(0, len(points), BATCH):
            self._submit(partial(_write_points, points[start : start + BATCH]))

    def _submit(self, write: Callable[[Run], None]) -> None:
        self._writes = [pending for pending in self._writes if not pending.done() or pending.exception()]
        self._writes.append(self._worker.submit(self._attempt, write))

    def _attempt(self, write: Callable[[Run], None]) -> None:
        """Write, on the worker. If that fails, write to the other store; if that fails, too, give up and say so."""
        if self._run is None:
            return
        try:
            write(self._run)
        except Exception as error:  # whatever a store's client raises: tracking never ends training
            self._run = self._replacement(error)
            self._attempt(write)

    def _replacement(self, error: Exception) -> Run | None:
        go_offline, self._go_offline = self._go_offline, None
        try:
            if go_offline is None:
                raise error
            run = go_offline(error)
            run.write_params(self._params)
        except Exception as second:
            _log.error("tracking stops here, training goes on: %s", one_line(second))
            return None
        return run


def _write_points(points: Sequence[Point], run: Run) -> None:
    run.write_points(points)


def _write_artifact(path: Path, folder: str | None, run: Run) -> None:
    """Write a file. If the folder of the store's files cannot be written from here, metrics still can."""
    try:
        run.write_artifact(path, folder)
    except OSError as error:
        if type(error).__module__ != "builtins" or isinstance(error, (ConnectionError, TimeoutError)):
            raise  # the store itself is away
        _log.warning("tracking: %s is not in the tracker, but stays in the run directory: %s", path, one_line(error))


def status_of(error: BaseException | None) -> Status:
    """FAILED for an error, KILLED for an interrupt, an exit by signal (128 + n) or a saved stop, otherwise FINISHED."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    by_signal = (
        isinstance(error, SystemExit)
        and isinstance(error.code, int)
        and (error.code > 128 or error.code == os.EX_TEMPFAIL)
    )
    return "KILLED" if by_signal or isinstance(error, KeyboardInterrupt) else "FAILED"


@lru_cache(maxsize=4096)
def valid_name(name: str) -> str:
    """A name that every MLflow accepts: letters, digits, `_ - . /` and spaces, a relative path, 250 characters."""
    cleaned = posixpath.normpath(re.sub(r"[^\w./ -]", "_", name))
    return cleaned.replace("..", "__").strip("/.")[:_MAX_NAME] or "_"


def one_line(error: BaseException) -> str:
    """The first line of an error's text, at most 160 characters."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 160 else text[:159] + "…"


def _flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"
