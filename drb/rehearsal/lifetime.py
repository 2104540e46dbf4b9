"""How a rehearsal ends: well, together with the other ranks, or by an error, without waiting for them."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self

from drb.exchange import Peers
from drb.rehearsal.running import Running
from drb.rehearsal.setup import Setup


class Lifetime:
    """The end of a `Rehearsal`, which is a context manager.

    A rehearsal has a setup until its first minibatch, and from then on is running. peers: None for one rank.
    """

    _peers: Peers | None
    _setup: Setup
    _running: Running | None = None
    _closed: bool = False

    @property
    def stopped(self) -> bool:
        """Whether a rank has ended and, with uneven="stop", all are to."""
        return self._running is not None and self._running.rounds.stopped

    def close(self) -> None:
        """Finish the round in flight and tell the other ranks that this one ends. Collective, idempotent.

        Raises:
            UnevenError: other ranks go on (unless uneven="stop").
        """
        if self._closed:
            return
        self._closed, together = True, False
        try:
            (self._running or self._setup).finish()
            together = True
        finally:
            if self._running is not None:
                self._running.rounds.close(together)
        if self._peers is not None:
            self._peers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            # a farewell to dead peers would only hide the first error, but the round in flight may know its cause
            self._closed = True
            if self._running is not None:
                cause = self._running.rounds.cause_of(error)
                self._running.rounds.close(together=False)
                if cause is not None:
                    raise cause from error

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise ValueError(f"this rehearsal has ended and its memory is gone; {what} before close()")

    def _require_running(self, operation: str) -> Running:
        if self._running is None:
            raise ValueError(f"{operation}() needs a first minibatch: call extend() or step() before")
        return self._running
