"""Engines: where rounds run. Results are asked for at the same steps, so training sees the same exemplars.

`InlineEngine` runs a round when it is handed in, on the caller's thread: the reference, and the cheaper one for
rounds shorter than a hand-off between threads (`choices.runs_inline`). `AsyncEngine` runs it on one worker thread,
which spends its time blocked in vectorised calls and collectives; a worker that polled in Python would slow training 5
to 70 times.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from drb.distributed.failure import GRACE_S

T = TypeVar("T")
_GROWTH = 1.1  # of steps from one to the next, if they become longer; of rounds, if they become shorter
_IN_TIME = 3.0  # so many of the longest rounds lately must fit in between a round's begin and its result
_LEAST_PAUSE_S = 1e-4


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

    starts_at: a round waits for this share of the time that passed lately between handing one in and asking for its
    result, if it ends in time all the same, by far. Where steps are short, it thus takes the interpreter not from the
    forward pass, in which training needs it, but from the backward pass, which runs without.
    """

    is_async = True

    def __init__(self, *, starts_at: float = 0.0) -> None:
        self.cpu_seconds = 0.0
        self.starts_at = starts_at
        self._submitted = self._gap_s = self._round_s = 0.0
        self._wanted: SimpleQueue[None] = SimpleQueue()  # a result is asked for that is not there
        self._calls: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="drb-rehearsal", daemon=True)
        self._worker.start()

    @property
    def is_running(self) -> bool:
        return self._worker.is_alive()

    def submit(self, call: Callable[[], T]) -> None:
        self._submitted = time.perf_counter()
        self._calls.put(call)

    def result(self, timeout_s: float | None = None) -> T:
        gap_s = time.perf_counter() - self._submitted
        self._gap_s = min(gap_s, _GROWTH * self._gap_s) if self._gap_s else gap_s
        if self.starts_at and self._outcomes.empty():
            self._wanted.put(None)
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
        self._wanted.put(None)
        self._worker.join(None if wait else GRACE_S)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.starts_at:
                self._hold_back()
            start = time.perf_counter()
            self._outcomes.put(_outcome(call))
            self._round_s = max(time.perf_counter() - start, self._round_s / _GROWTH)
            self.cpu_seconds = time.thread_time()

    def _hold_back(self) -> None:
        """Wait until a round may begin."""
        pause_s = min(self.starts_at * self._gap_s, self._gap_s - _IN_TIME * self._round_s)
        if pause_s > _LEAST_PAUSE_S:
            with contextlib.suppress(Empty):
                self._wanted.get(timeout=pause_s)


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
