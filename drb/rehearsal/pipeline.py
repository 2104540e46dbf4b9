"""Rounds in flight, and what they fetched: `depth` rounds ahead, each for `interval` steps.

Every `interval` steps a round is submitted. What it fetched is used from `depth` rounds later on, one draw per step:

    step               0     1     2     3     4     5     6     7     8     9
    depth 1, every     A     B·a   C·b   D·c   E·d   …
    depth 2, every     A     B     C·a   D·b   E·c   …
    depth 1, every 3   A                 B·a1  a2    a3    C·b1  b2    b3    D·c1     (A: submitted; a1: its first draw)

What is used in a step is fixed by its number, so it does not depend on when a round ends.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from drb.distributed.failure import GRACE_S, PeerError
from drb.exchange import Peers
from drb.rehearsal.engine import EarlyNews
from drb.rehearsal.exemplars import ACTIVE, FINISHED, RoundResult, StepExemplars, UnevenError
from drb.rehearsal.intake import Offered
from drb.rehearsal.parts import Parts
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.fetched import fetched_state, restore_fetched
from drb.types import Int64Array

if TYPE_CHECKING:
    from drb.rehearsal.feedback import FeedbackIntake

MOST_COLLECTIVES = 6  # of a round, each of which may take timeout_s


class Pipeline:
    """The training thread's side of the rounds. Collective: every rank makes the same calls in the same order.

    Steps are numbered from 0. stopped: a rank has ended and, with uneven="stop", all are to.
    broken_by: an error in the middle of a step, or of a round. After that nobody knows which rows are whose, and it can
    only be ended.
    """

    def __init__(self, parts: Parts, peers: Peers | None, settings: RehearsalSettings) -> None:
        self.stopped = False
        self._parts = parts
        self._runner, self._delivery = parts.runner, parts.runner.delivery
        self._depth, self._interval = parts.depth, parts.interval
        self._has_peers = peers is not None
        self._is_error_if_uneven = settings.uneven == "error"
        self._longest_round_s = MOST_COLLECTIVES * settings.timeout_s
        self._in_flight = 0
        self._ready: deque[StepExemplars] = deque()
        self._is_ended = False  # by a rank that has finished, which a round has told
        self._is_stuck = False  # a round has not ended in any time that it may take
        self.broken_by: BaseException | None = None
        self._statuses: EarlyNews[Int64Array] | None = None
        if settings.uneven == "stop":
            self._statuses = EarlyNews()
            self._runner.on_gathered = self._statuses.put

    # -- a step

    def require_sound(self) -> None:
        """Raise RuntimeError if there was an error after which this cannot go on."""
        error = self.broken_by
        if error is not None:
            raise RuntimeError(
                f"this rehearsal failed before and cannot go on ({type(error).__name__}: {error}); close it, make a "
                "new one and load a saved state"
            )

    def break_off(self, error: BaseException) -> None:
        """Something failed in the middle of a step: this cannot go on."""
        self.broken_by = self.broken_by or error

    def take(self, step: int) -> StepExemplars | None:
        """Take this step's exemplars; None in the first steps. Waits for their round, and raises what it raised."""
        exemplars = None
        if step // self._interval >= self._depth and not self._is_ended:
            if not self._ready and self._in_flight:
                self._receive()
            exemplars = self._ready.popleft() if self._ready else None
        if step % self._interval == 0:
            if self._delivery.launches and self._in_flight >= self._depth - 1:
                self._receive()  # the next round's rows set off now, to be there by the time its exemplars are used
            if self._delivery.marks:
                self._delivery.mark(self._runner.block_of(step))  # the exemplars in this round's block are used up
        return exemplars

    def submit(self, step: int, offered: Offered, status: int = ACTIVE, feedback: FeedbackIntake | None = None) -> None:
        """Fix what this step's round reads, and let it begin; nothing if this step has no round.

        With uneven="stop", hear whether some rank has ended, as soon as all ranks have begun theirs.

        offered: by this rank so far, which the round can draw. feedback: has what the round tells;
        None if it tells nothing, as one that is run again.
        """
        if status == ACTIVE and step % self._interval:
            return
        parts = self._parts
        rows = None if feedback is None else feedback.due(step)
        call = partial(self._runner.run, step, status, offered, parts.buffer.hand_in(), rows)
        parts.engine.submit(call if self._statuses is None else partial(self._statuses.watch, call))
        self._in_flight += 1
        if self._statuses is not None:
            statuses = self._statuses.get()
            self.stopped = statuses is not None and bool((statuses == FINISHED).any())

    # -- between steps

    def drain(self) -> None:
        """Wait for the rounds in flight and keep what they fetched for the next steps."""
        self.require_sound()
        while self._in_flight:
            self._receive()

    def run_again(self, last_step: int, offered: Offered) -> None:
        """After `drain`: fetch anew, from what the buffers hold now, what is ready for the next steps. Collective."""
        if self._is_ended or not self._ready:
            return
        per_round = [len(exemplars) for exemplars in list(self._ready)[:: -self._interval]]
        self._runner.uncount(len(per_round), self._interval * sum(per_round))
        self._ready.clear()
        self._run_rounds_up_to(last_step, offered)

    # -- the end

    def finish(self, step: int, offered: Offered) -> None:
        """Tell the other ranks that this one ends after so many steps. Raises UnevenError if others go on."""
        self._statuses = self._runner.on_gathered = None  # nobody asks any more
        self.submit(step, offered, FINISHED)
        result = self._result(self._longest_round_s)
        if self._is_error_if_uneven and result.ends is not None and not result.ends.are_even:
            raise result.ends.uneven()

    def discard(self) -> None:
        """After `break_off`: wait until nothing is in flight, so that the others can be told of this rank's end."""
        while self._in_flight and not self._is_stuck:
            self._in_flight -= 1
            with contextlib.suppress(Exception):
                self._parts.engine.result(self._longest_round_s)
        self._runner.failure = None

    def cause_of(self, error: BaseException) -> BaseException | None:
        """Why another rank ended, if this error comes from that and a round in flight knows.

        Another rank's end shows first as a gradient all-reduce that failed.
        """
        if not self._has_peers or not isinstance(error, RuntimeError) or isinstance(error, PeerError):
            return None
        while self._in_flight:
            try:
                result = self._result(2 * GRACE_S)
            except (UnevenError, PeerError) as cause:
                return cause
            except Exception:
                return None
            if result.ends is not None:
                return result.ends.uneven()
        return None

    def close(self, together: bool) -> None:
        """Let go of threads and memory. together: all ranks ended well, so they may wait for one another."""
        self._parts.engine.close(wait=not self._is_stuck and (together or not self._in_flight))
        self._delivery.close(together)
        self._parts.close(together)

    @property
    def is_running(self) -> bool:
        """Whether a round goes on although this is closed, because it waits for other ranks."""
        return self._parts.engine.is_running

    def close_later(self, peers: Peers) -> None:
        """Wait until the round that goes on has ended, then close the group; for a thread of its own."""
        self._parts.engine.close()
        peers.close()

    # -- state

    def state_dict(self) -> dict[str, Any] | None:
        """After `drain`: what is ready for the next steps; None if nothing is."""
        for block in {exemplars.block for exemplars in self._ready}:
            self._delivery.to_host(block)
        return fetched_state(self._ready, self._depth, self._interval, self._runner.draws)

    def load_state_dict(self, fetched: Mapping[str, Any] | None, last_step: int, offered: Offered) -> None:
        """Go on after step `last_step`. Collective where nothing is fetched, which must then be so on every rank."""
        if fetched is not None:
            self._ready.extend(restore_fetched(fetched, last_step, self._runner))
            if self._runner.recorder is not None:
                self._runner.recorder.fetched(self._ready)
            for block in {exemplars.block for exemplars in self._ready}:
                self._delivery.restore(block)
        elif last_step >= 0:
            if not self._parts.buffer.has_staged:
                self._parts.buffer.expire(last_step)  # time has passed
            self._run_rounds_up_to(last_step, offered)

    # -- behind the scenes

    def _run_rounds_up_to(self, last_step: int, offered: Offered) -> None:
        """Run the rounds that are submitted by `last_step` and whose exemplars are used after it."""
        interval, next_step, recorder = self._interval, last_step + 1, self._runner.recorder
        if recorder is not None:
            recorder.again_after = last_step
        current = next_step // interval - self._depth  # the round whose exemplars the next step uses
        for number in range(max(current, 0), last_step // interval + 1):
            self._delivery.mark(self._runner.block_of(number * interval))
            self.submit(number * interval, offered)
            self._receive()
        if recorder is not None:
            recorder.again_after = None
        if current >= 0:
            for _ in range(next_step % interval):
                self._ready.popleft()  # used before

    def _receive(self) -> None:
        """Wait until the oldest round in flight has fetched; raises what it raised."""
        result = self._result(self._longest_round_s)
        self._parts.buffer.release()
        if result.ends is not None:
            self._is_ended = True
            if self._is_error_if_uneven:
                raise result.ends.uneven()
        self._ready.extend(result.per_step)
        if self._delivery.launches and result.exemplars:
            self._delivery.launch()

    def _result(self, timeout_s: float) -> RoundResult:
        try:
            result = self._parts.engine.result(timeout_s)
        except BaseException as error:
            self._is_stuck = isinstance(error, TimeoutError)
            if error is self._runner.failure:
                self._in_flight -= 1  # or else it was the wait that failed, and the round goes on
            self.break_off(error)
            raise
        self._in_flight -= 1
        return result
