"""Engines: where rounds run. Results are asked for at the same steps, so training sees the same exemplars.

`InlineEngine` runs a round when it is handed in, on the caller's thread: the reference, and the cheaper one for
rounds shorter than a hand-off between threads (`drb.rehearsal.auto.runs_inline`). `AsyncEngine` runs it on one worker
thread, which spends its time blocked in vectorised calls and collectives; a worker that polled in Python would slow
training 5 to 70 times.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from drb.distributed.failure import GRACE_S

T = TypeVar("T")


class Engine(Protocol[T]):
    """`submit` rounds, which run one after the other, and ask for each `result` in turn.

    Attributes:
        is_running: whether a round may be in progress although the engine is closed.
        is_async: whether rounds run on a thread of their own; cpu_seconds: the CPU time of that thread.
    """

    is_async: bool
    cpu_seconds: float

    @property
    def is_running(self) -> bool: ...

    def submit(self, call: Callable[[], T]) -> None: ...

    def result(self, timeout_s: float | None = None) -> T:
        """The result of the oldest round not asked for yet; raises what it raised, unless `submit` has.

        Raises:
            TimeoutError: it takes longer than timeout_s.
        """
        ...

    def close(self, wait: bool = True) -> None:
        """wait: for the rounds in flight, if any; otherwise for a moment only."""
        ...


class InlineEngine(Generic[T]):
    """Runs rounds on the caller's thread."""

    is_async = is_running = False
    cpu_seconds = 0.0

    def __init__(self) -> None:
        self._values: deque[T] = deque()

    def submit(self, call: Callable[[], T]) -> None:
        """An error is raised here, not kept for later: this thread would go on to where the others never come, since
        they wait for it in the round. Nor is a signal's, which is no error of the round.
        """
        self._values.append(call())

    def result(self, timeout_s: float | None = None) -> T:
        assert self._values, "result() without submit()"
        return self._values.popleft()

    def close(self, wait: bool = True) -> None:
        self._values.clear()


class AsyncEngine(Generic[T]):
    """Owns one worker thread, which ends with `close`.

    It is a daemon, so that a round stuck on a dead peer cannot keep a failing process alive. But a process that ends
    well must wait for it: a thread that is cut off inside torch at exit takes the process down with SIGABRT.
    """

    is_async = True

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self._calls: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="drb-rehearsal", daemon=True)
        self._worker.start()

    @property
    def is_running(self) -> bool:
        return self._worker.is_alive()

    def submit(self, call: Callable[[], T]) -> None:
        self._calls.put(call)

    def result(self, timeout_s: float | None = None) -> T:
        try:
            outcome = self._outcomes.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError(f"the rehearsal round did not end within {timeout_s} s") from None
        value, error = outcome
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def close(self, wait: bool = True) -> None:
        self._calls.put(None)
        self._worker.join(None if wait else GRACE_S)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._outcomes.put(_outcome(call))
            self.cpu_seconds = time.thread_time()


class EarlyNews(Generic[T]):
    """Something a round knows before it ends, for a caller that cannot wait for the end. Used once per round."""

    def __init__(self) -> None:
        self._news: SimpleQueue[T | None] = SimpleQueue()
        self._was_put = False

    def put(self, value: T) -> None:
        self._was_put = True
        self._news.put(value)

    def watch(self, call: Callable[[], Any]) -> Any:
        """Run the round; if it fails before its news, the reader gets None, and the error with the result."""
        self._was_put = False
        try:
            return call()
        finally:
            if not self._was_put:
                self._news.put(None)

    def get(self) -> T | None:
        return self._news.get()


def _outcome(call: Callable[[], T]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # crosses to the training thread with its traceback
        return None, error
