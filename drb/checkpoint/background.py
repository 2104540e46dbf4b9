"""One piece of work at a time on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """The owner starts work and later waits for it; what the work raised is raised there.

    Its threads are daemons: work that waits for a dead peer keeps no process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether `wait` will raise."""
        return self._error is not None

    def start(self, work: Callable[[], None]) -> None:
        """Waits for the work before."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being done. Raises what the work raised, each time."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def linger(self, limit_s: float) -> None:
        """As `wait`, but not for ever, and whatever comes of it: the owner is failing already."""
        if self._thread is not None:
            self._thread.join(limit_s)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # the owner's thread raises it
            self._error = error
