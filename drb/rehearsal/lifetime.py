"""How a rehearsal starts and ends.

It starts with the first minibatch that has rows on some rank. It ends well, together with the other ranks, or by an
error, without waiting for them.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

from drb.distributed.failure import OwnError, PeerError, is_of_a_collective
from drb.exchange import Peers
from drb.rehearsal.output import outside_inference_mode
from drb.rehearsal.running import Running
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.unstarted import Unstarted
from drb.types import Minibatch
from drb.variant import name_of

if TYPE_CHECKING:
    from drb.rehearsal.ledger.recorder import Recorder

log = logging.getLogger("drb")


TWO_THREADS = (
    "two threads call extend() or step() of one rehearsal at once, but steps have an order that all ranks share: call "
    "them from one thread, or make a rehearsal for each"
)


class Lifetime:
    """The start, the tasks and the end of a `Rehearsal`, which is a context manager.

    A rehearsal is unstarted until its first minibatch, and from then on running. peers: None for one rank.
    """

    settings: RehearsalSettings
    _peers: Peers | None
    _unstarted: Unstarted
    _running: Running | None = None
    _closed: bool = False
    _verbose: bool
    _setup_seconds: float = 0.0

    def _running_with(self, minibatch: Minibatch) -> Running | None:
        """What takes the step with this minibatch; None if no rank's has rows yet."""
        running = self._running
        if self._closed or (running is not None and running.rounds.stopped):
            raise ValueError("this rehearsal has ended; make a new one")
        return running or self._start(minibatch)

    @outside_inference_mode
    def _start(self, minibatch: Minibatch | None) -> Running | None:
        """Build everything, and say on rank 0 what was chosen: see `Unstarted.start`. Without a minibatch it is built
        from the state that was loaded, if any: see `Unstarted.resume`. Collective.
        """
        start = time.perf_counter()
        running = self._running = self._unstarted.resume() if minibatch is None else self._unstarted.start(minibatch)
        if running is None:
            return None
        if self._peers is None or self._peers.rank == 0:
            self._say(running.parts.describe(self.settings))
            if running.parts.auto is not None:
                running.parts.auto.say = self._say
        self._setup_seconds = time.perf_counter() - start
        return running

    def _say(self, line: str) -> None:
        log.info(line)
        if self._verbose:
            print(f"drb: {line}", file=sys.stderr, flush=True)

    @property
    def recorder(self) -> Recorder | None:
        """What logs offers and draws: see `drb.rehearsal.ledger`. It is to be set before the first minibatch.

        Raises:
            ValueError: when it is set afterwards.
        """
        return self._unstarted.recorder

    @recorder.setter
    def recorder(self, recorder: Recorder) -> None:
        if self._running is not None:
            raise ValueError("a recorder must be given before the first minibatch")
        if self.settings.prefilled is not None:
            raise ValueError("a recorder does not log draws from prefilled samples: leave it out, or prefilled=")
        if not self.settings.shares.is_logged:
            name = name_of(self.settings.shares)
            raise ValueError(
                f"a recorder does not log feedback and tasks, from which the draws of proportions={name} follow: leave "
                "it out, or choose other proportions"
            )
        self._unstarted.recorder = recorder

    @property
    def next_step(self) -> int:
        """The number of the next step, from 0 on, which a loaded state goes on counting."""
        if self._running is not None:
            return self._running.steps.last + 1
        return int((self._unstarted.saved or {}).get("round", -1)) + 1

    @property
    def stopped(self) -> bool:
        """Whether a rank has ended and, with uneven="stop", all are to."""
        return self._running is not None and self._running.rounds.stopped

    def begin_task(self, index: int, accuracies: Sequence[Sequence[float]] = ()) -> None:
        """Tell that a task begins, for proportions and exemplars that follow tasks (docs/which_past.md). Collective.

        Call it before the first minibatch of each task, whose step follows it. Without a use for it nothing is done.

        Args:
            index: of the task, counted from 0.
            accuracies: on samples held out of training, after each task so far: [i][j] of task j after task i, j ≤ i.
        Raises:
            ValueError: the ranks say different things, or accuracies of other tasks; on all ranks.
        """
        self._require_open("begin a task")
        if self.settings.needs_tasks:
            (self._running or self._unstarted).begin_task(index, accuracies)

    def close(self) -> None:
        """Finish the round in flight and tell the other ranks that this one ends. Collective, idempotent.

        Raises:
            UnevenError: other ranks go on (unless uneven="stop").
        """
        if self._closed:
            return
        self._closed, together = True, False
        try:
            (self._running or self._unstarted).finish()
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
            cause = None if self._running is None else self._running.rounds.cause_of(error)
            if cause is None:
                self._announce(error)
            self._let_go()
            if cause is not None:
                raise cause from error

    def __del__(self) -> None:
        """A rehearsal that is dropped without `close` gives back its threads and descriptors, too."""
        if not self._closed and not sys.is_finalizing() and hasattr(self, "_peers"):
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        """End this rank's threads without waiting for the others. Its group ends when no operation is in flight."""
        rounds = None if self._running is None else self._running.rounds
        if rounds is not None:
            rounds.close(together=False)
        peers = self._peers
        if peers is None or (rounds is not None and rounds.broken_by is not None):
            return  # a group whose operation failed would wait for a dead peer: it ends with the process
        if rounds is None or not rounds.is_running:
            peers.close()
        else:
            threading.Thread(target=rounds.close_later, args=(peers,), name="drb-release", daemon=True).start()

    def _announce(self, error: BaseException) -> None:
        """Tell the other ranks why this one leaves: they wait for it in a round or in the gradients' all-reduce."""
        if self._peers is not None and not isinstance(error, (PeerError, OwnError)) and not is_of_a_collective(error):
            step = 0 if self._running is None else self._running.steps.last + 1
            self._peers.board.announce(f"its training loop, step {step}", error)

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise ValueError(f"this rehearsal has ended and its memory is gone; {what} before close()")

    def _require_running(self, operation: str) -> Running:
        if self._running is None:
            raise ValueError(f"{operation}() needs a first minibatch: call extend() or step() before")
        return self._running
