"""Signals that make a run save itself and stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

_SAME_SIGNAL_S = 5.0  # torchrun forwards a signal that Slurm has sent to every process anyway: that is one, not two


class StopSignals:
    """Remembers that one of these signals arrived. A second one, at least 5 s later, ends the process at once.

    A context manager that installs the handlers.

    Attributes:
        received: the number of the signal that arrived, 0 if none has.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """
        Args:
            names: without SIG, such as "TERM" and "USR2".
        """
        self._numbers = [getattr(signal, f"SIG{name}") for name in names]
        self._before: dict[int, Any] = {}
        self._received_at = 0.0
        self.received = 0

    def __bool__(self) -> bool:
        """Whether there are any signals to wait for."""
        return bool(self._numbers)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.received and error is not None:
            return  # the process ends: the same signal, forwarded by a launcher, must not change how
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._received_at = number, now
        elif now - self._received_at >= _SAME_SIGNAL_S:
            raise SystemExit(128 + number)
