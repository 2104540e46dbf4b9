"""Trackers, which the rest of drb calls, and the run in a store that they write to. Nothing here knows MLflow."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]

PARENT = "mlflow.parentRunId"  # the tag of a nested run: the run that it is shown below
BATCH = 1000  # the most metrics that MLflow takes at a time
_MAX_NAME = 250  # MLflow's limit, in characters


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    timestamp_ms: int
    step: int


class Data(NamedTuple):
    """A data set: its name, a digest of its content (at most 36 characters), where it is, and its size as JSON."""

    name: str
    digest: str
    source: str
    profile: str


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

    def write_tags(self, tags: Mapping[str, str]) -> None: ...

    def write_dataset(self, data: Data) -> None: ...

    def write_model(self, name: str, files: Sequence[Path], step: int) -> None: ...

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

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Log what runs are searched and grouped by. A tag may be logged again with another value."""

    def log_dataset(self, data: Data) -> None:
        """Log what the run trains on."""

    def log_model(self, name: str, files: Sequence[Path], step: int) -> None:
        """Copy files to the store, in the background, as the model that the run has made."""

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

    def log_tags(self, tags: Mapping[str, str]) -> None:
        pass

    def log_dataset(self, data: Data) -> None:
        pass

    def log_model(self, name: str, files: Sequence[Path], step: int) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        pass

    def start_flush(self) -> Callable[[], None]:
        return lambda: None

    def close(self, status: Status) -> None:
        pass


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
