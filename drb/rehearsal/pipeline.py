"""Rounds in flight, and what they fetched: `depth` rounds ahead, each for `interval` steps.

Every `interval` steps a round is handed in. What it fetched is used from `depth` rounds later on, one draw per step:

    step               0     1     2     3     4     5     6     7     8     9
    depth 1, every     A     B·a   C·b   D·c   E·d   …
    depth 2, every     A     B     C·a   D·b   E·c   …
    depth 1, every 3   A                 B·a1  a2    a3    C·b1  b2    b3    D·c1     (A: handed in; a1: its first draw)

What is used in a step is fixed by its number, so it does not depend on when a round ends.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from drb.buffer.positions import TableChange
from drb.distributed.failure import GRACE_S, PeerError
from drb.exchange import Peers
from drb.rehearsal.engine import EarlyNews
from drb.rehearsal.parts import Parts
from drb.rehearsal.round import ACTIVE, FINISHED, RoundResult, StepExemplars, UnevenError
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.fetched import fetched_state, restore_fetched
from drb.types import Int64Array

MOST_COLLECTIVES = 6  # of a round, each of which may take timeout_s


class Pipeline:
    """On the training thread; collective: every rank takes the same steps in the same order.

    Steps are numbered from 0. stopped: a rank has ended and, with uneven="stop", all are to.

    After an error in the middle of a step, or of a round, nobody knows which rows are whose: then it can only be ended.
    """

    def __init__(self, parts: Parts, peers: Peers | None, settings: RehearsalSettings) -> None:
        self.parts = parts
        self.stopped = False
        self._depth, self._interval = parts.depth, parts.interval
        self._peers = peers
        self._is_error_if_uneven = settings.uneven == "error"
        self._longest_round_s = MOST_COLLECTIVES * settings.timeout_s
        self._handed_in: Callable[[], RoundResult] | None = None
        self._in_flight = 0
        self._ready: deque[StepExemplars] = deque()
        self._is_ended = False  # by a rank that has finished, which a round has told
        self._is_stuck = False  # a round has not ended in any time that it may take
        self._statuses: EarlyNews[Int64Array] | None = EarlyNews() if settings.uneven == "stop" else None
        self._broken_by: BaseException | None = None
        self._failure: BaseException | None = None  # of a round; with the next, the engine's thread's
        self._last: RoundResult | None = None
        delivery = parts.runner.delivery
        self._launcher = delivery if delivery is not None and delivery.launches else None

    # -- a step

    def require_sound(self) -> None:
        """Raise RuntimeError if there was an error after which this cannot go on."""
        if self._broken_by is not None:
            error = self._broken_by
            raise RuntimeError(
                f"this rehearsal failed before and cannot go on ({type(error).__name__}: {error}); close it, make a "
                "new one and load a saved state"
            )

    @property
    def is_broken(self) -> bool:
        return self._broken_by is not None

    def break_off(self, error: BaseException) -> None:
        """In the middle of a step something failed."""
        self._broken_by = self._broken_by or error

    def take(self, step: int) -> StepExemplars | None:
        """This step's exemplars; None in the first steps. Waits for their round; raises what it raised."""
        exemplars = None
        if step // self._interval >= self._depth and not self._is_ended:
            if not self._ready and self._in_flight:
                self._receive()
            exemplars = self._ready.popleft() if self._ready else None
        if self._launcher is not None and step % self._interval == 0 and self._in_flight >= self._depth - 1:
            self._receive()  # the next round's rows set off now, to be there by the time its exemplars are used
        return exemplars

    def hand_in(self, step: int, offered: int, status: int = ACTIVE) -> None:
        """Fix what the round of this step will read, if it is one with a round; `start` lets it begin.

        offered: distinct samples, of this rank so far.
        """
        parts = self.parts
        if status == ACTIVE and step % self._interval:
            return
        # whoever reads the exemplars of the round before those that are now being used has been queued
        parts.runner.fence.mark(parts.runner.block_of(step))
        assert self._handed_in is None, "a round that was handed in was never started"
        change = parts.buffer.hand_in()
        self._handed_in = lambda: self._run(step, status, offered, change)

    def start(self) -> None:
        """The round that was handed in begins, if there is one.

        With uneven="stop": hear whether some rank has ended, as soon as all ranks have started theirs.
        """
        if self._handed_in is None:
            return
        call, self._handed_in = self._handed_in, None
        self.parts.engine.submit(call)
        self._in_flight += 1
        if self._statuses is not None:
            statuses = self._statuses.get()
            self.stopped = statuses is not None and bool((statuses == FINISHED).any())

    # -- between steps

    def drain(self) -> None:
        """Wait for the rounds in flight and keep what they fetched."""
        self.require_sound()
        while self._in_flight:
            self._receive()

    def run_again(self, last_step: int, offered: int) -> None:
        """After `drain`: fetch anew, from what the buffers hold now, what is ready for the next steps. Collective."""
        if self._is_ended or not self._ready:
            return
        per_round = [len(exemplars) for exemplars in list(self._ready)[:: -self._interval]]
        self.parts.runner.uncount(len(per_round), self._interval * sum(per_round))
        self._ready.clear()
        self._run_rounds_up_to(last_step, offered)

    def finish(self, step: int, offered: int) -> None:
        """Tell the other ranks that this one ends after so many steps. Raises UnevenError if others go on."""
        self.hand_in(step, offered, FINISHED)
        self._statuses = None  # nobody asks any more
        self.start()
        result = self._result(self._longest_round_s)
        if self._is_error_if_uneven and not result.is_even:
            raise result.uneven()

    def discard(self) -> None:
        """After `break_off`: nothing is in flight any more, so that the others can be told of this rank's end."""
        self._handed_in = None
        while self._in_flight and not self._is_stuck:
            self._in_flight -= 1
            with contextlib.suppress(Exception):
                self.parts.engine.result(self._longest_round_s)
        self._failure = None

    def cause_of(self, error: BaseException) -> BaseException | None:
        """Another rank's end shows first as a broken gradient all-reduce; a round in flight knows the reason."""
        if self._peers is None or not isinstance(error, RuntimeError) or isinstance(error, PeerError):
            return None
        while self._in_flight:
            try:
                result = self._result(2 * GRACE_S)
            except (UnevenError, PeerError) as cause:
                return cause
            except Exception:
                return None
            if result.someone_finished:
                return result.uneven()
        return None

    def release(self, together: bool) -> None:
        """Let go of threads and memory. together: all ranks ended well, so they may wait for one another."""
        self.parts.engine.close(wait=not self._is_stuck and (together or not self._in_flight))
        if self.parts.runner.delivery is not None:
            self.parts.runner.delivery.close(together)
        self.parts.exchange.close(together)

    # -- state

    def state(self) -> dict[str, Any] | None:
        """After `drain`: what is ready; None if nothing is."""
        if self.parts.runner.delivery is not None:
            for block in {exemplars.block for exemplars in self._ready}:
                self.parts.runner.delivery.to_host(block)
        return fetched_state(self._ready, self._depth, self._interval)

    def load(self, fetched: Mapping[str, Any] | None, last_step: int, offered: int) -> None:
        """Go on after step `last_step`. Collective where nothing is fetched, which must then be so on every rank."""
        if fetched is not None:
            self._ready.extend(restore_fetched(fetched, last_step, self.parts.runner))
            if self.parts.runner.delivery is not None:
                for block in {exemplars.block for exemplars in self._ready}:
                    self.parts.runner.delivery.restore(block)
        elif last_step >= 0:
            if not self.parts.buffer.has_staged:
                self.parts.buffer.expire(last_step)  # time has passed
            self._run_rounds_up_to(last_step, offered)

    # -- behind the scenes

    def _run_rounds_up_to(self, last_step: int, offered: int) -> None:
        """The rounds whose exemplars are used after `last_step`, as far as they have been handed in by then."""
        interval, next_step = self._interval, last_step + 1
        current = next_step // interval - self._depth  # the round whose exemplars the next step uses
        for number in range(max(current, 0), last_step // interval + 1):
            self.hand_in(number * interval, offered)
            self.start()
            self._receive()
        if current >= 0:
            for _ in range(next_step % interval):
                self._ready.popleft()  # used before

    def _run(self, step: int, status: int, offered: int, change: TableChange) -> RoundResult:
        """On the engine's thread. After a rank's last round, or one that failed, none is run, whatever is queued."""
        if self._failure is not None:
            raise self._failure
        if self._last is not None:
            return self._last
        if self._peers is not None:
            self._peers.context = f"round {step // self._interval}"
        news, run = self._statuses, self.parts.runner.run
        try:
            if news is None:
                result = run(step, status, offered, change)
            else:
                result = news.watch(lambda: run(step, status, offered, change, news.put))
        except BaseException as error:
            self._failure = error
            raise
        self._last = result if result.someone_finished else None
        return result

    def _receive(self) -> None:
        """The oldest round in flight has fetched; raises what it raised."""
        result = self._result(self._longest_round_s)
        self.parts.buffer.release()
        self._is_ended = result.someone_finished
        if self._is_ended and self._is_error_if_uneven:
            raise result.uneven()
        self._ready.extend(result.per_step)
        if self._launcher is not None and result.exemplars:
            self._launcher.launch()

    def _result(self, timeout_s: float) -> RoundResult:
        try:
            result = self.parts.engine.result(timeout_s)
        except BaseException as error:
            self._is_stuck = isinstance(error, TimeoutError)
            if error is self._failure:
                self._in_flight -= 1  # or else it was the wait that failed, and the round goes on
            self.break_off(error)
            raise
        self._in_flight -= 1
        return result
