"""A tracker that writes on a thread of its own. Nothing here knows MLflow.

Metrics are buffered. A worker thread writes them when there are a thousand, every few seconds, or when `flush` is
called (between tasks, outside timed regions). A store that fails is replaced, once, by one in the run directory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from drb.tracking.tracker import BATCH, Data, Point, Run, Status, Tracker, one_line, valid_name

_log = logging.getLogger(__name__)
_MAX_VALUE = 6000  # characters of a param or a tag, MLflow's limit


class BufferedTracker(Tracker):
    """Tracks into a store. Owns one worker thread, which alone talks to the store.

    Args:
        run: the run in its store.
        go_offline: returns the run to use instead if the store fails; called at most once, on the worker. None if the
            store is that run already.
        flush_seconds: metrics are written at least this often while more are logged.
        at_end: called before the run is ended.
    """

    def __init__(
        self,
        run: Run,
        go_offline: Callable[[Exception], Run] | None,
        *,
        flush_seconds: float = 10.0,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self._run: Run | None = run
        self._run_id, self._url = run.run_id, run.url
        self._go_offline = go_offline
        self._flush_seconds = flush_seconds
        self._written_until = run.last_steps()
        self._points: list[Point] = []
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._last_write = time.monotonic()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="drb-tracking")
        self._writes: list[Future[None]] = []
        self._at_end = at_end
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

    def log_tags(self, tags: Mapping[str, str]) -> None:
        texts = {valid_name(name): _shorten(value) for name, value in tags.items()}
        self._tags |= texts
        self._submit(lambda run: run.write_tags(texts))

    def log_dataset(self, data: Data) -> None:
        self._submit(lambda run: run.write_dataset(data))

    def log_model(self, name: str, files: Sequence[Path], step: int) -> None:
        self._submit(partial(_write_files, files[0], lambda run: run.write_model(name, files, step)))

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
            if self._at_end is not None:
                self._at_end()
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
            run.write_tags(self._tags)
        except Exception as second:
            _log.error("tracking stops here, training goes on: %s", one_line(second))
            return None
        return run


def _write_points(points: Sequence[Point], run: Run) -> None:
    run.write_points(points)


def _write_artifact(path: Path, folder: str | None, run: Run) -> None:
    _write_files(path, lambda run: run.write_artifact(path, folder), run)


def _write_files(path: Path, write: Callable[[Run], None], run: Run) -> None:
    """Write files. If the folder of the store's files cannot be written from here, metrics still can."""
    try:
        write(run)
    except OSError as error:
        if type(error).__module__ != "builtins" or isinstance(error, (ConnectionError, TimeoutError)):
            raise  # the store itself is away
        _log.warning("tracking: %s is not in the tracker, but stays in the run directory: %s", path, one_line(error))


def _flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"
