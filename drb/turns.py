"""The order of things in a step, on the training thread, with at most one round in flight.

    wait for round t-1  →  commit minibatch t-1  →  hand in round t  →  stage minibatch t

Round t publishes what was committed, so minibatch t can be drawn from round t+1 on, when its late fields are known,
for every strategy and engine alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from drb.assembly import Parts
from drb.engine import EarlyNews
from drb.exchange import Peers
from drb.failure import GRACE_S, PeerError
from drb.intake import Intake
from drb.round import ACTIVE, FINISHED, RoundResult, UnevenError
from drb.settings import RehearsalSettings
from drb.types import Int64Array, Minibatch

MOST_COLLECTIVES = 6  # of a round, each of which may take timeout_s


class Turns:
    """One turn per minibatch, collective: every rank takes them in the same order.

    stopped: a rank has ended and, with uneven="stop", all are to.
    """

    def __init__(self, parts: Parts, intake: Intake, peers: Peers | None, settings: RehearsalSettings) -> None:
        self.parts = parts
        self.stopped = False
        self.wait_seconds = 0.0  # in `take`
        self.admission_seconds = 0.0
        self._intake = intake
        self._peers = peers
        self._is_error_if_uneven = settings.uneven == "error"
        self._longest_round_s = MOST_COLLECTIVES * settings.timeout_s
        self._round = -1
        self._in_flight = False
        self._ready: RoundResult | None = None  # a result that was waited for before it was needed
        self._is_stuck = False  # a round has not ended in any time that it may take
        self._statuses: EarlyNews[Int64Array] | None = EarlyNews() if settings.uneven == "stop" else None

    def take(self, minibatch: Minibatch) -> RoundResult | None:
        """The exemplars of the last round in, the next round on its way, this minibatch staged. None at first.

        Raises:
            ValueError: late fields are missing, or a minibatch is broken; nothing has changed.
        """
        parts, start = self.parts, time.perf_counter()
        parts.buffer.require_late_fields()
        offer, fields = self._intake.take(minibatch, parts.spec, parts.max_rows, self._round + 1)
        taken = time.perf_counter()
        result = self._wait()
        waited = time.perf_counter()
        parts.buffer.commit()
        parts.buffer.expire(self._round + 1)
        if result is not None:
            parts.runner.fence.mark(1 - result.round % 2)  # readers of the exemplars before these have been queued
        committed = time.perf_counter()
        self._submit(ACTIVE)
        submitted = time.perf_counter()
        parts.buffer.stage(fields, offer)
        self.wait_seconds += waited - taken
        self.admission_seconds += taken - start + committed - waited + time.perf_counter() - submitted
        self._hear_statuses()
        return result

    def drain(self) -> None:
        """Wait for the round in flight and keep its result for the next turn."""
        if self._in_flight:
            self._ready = self._wait()

    def run_again(self) -> None:
        """After `drain`: run the drained round anew, on what the buffers hold now. Collective."""
        result = self._ready
        if result is not None and not result.someone_finished:
            self._ready = None
            self.parts.runner.uncount(result)
            self._round -= 1
            self._submit(ACTIVE)
            self._hear_statuses()

    def finish(self) -> None:
        """The last turn: tell the other ranks that this one ends. Raises UnevenError if others go on."""
        if self.stopped:
            return
        self._wait()
        if not self.parts.buffer.lacks_late_fields:
            self.parts.buffer.commit()
        self._submit(FINISHED)
        result = self._result()
        if result.someone_goes_on and self._is_error_if_uneven:
            raise result.uneven()

    def cause_of(self, error: BaseException) -> BaseException | None:
        """Another rank's end shows first as a broken gradient all-reduce; the round in flight knows the reason."""
        if self._peers is None or not self._in_flight or not isinstance(error, RuntimeError):
            return None
        if isinstance(error, PeerError):
            return None
        try:
            result = self.parts.engine.result(2 * GRACE_S)
        except (UnevenError, PeerError) as cause:
            return cause
        except Exception:
            return None
        return result.uneven() if result.someone_finished else None

    def release(self, together: bool) -> None:
        """Let go of threads and memory. together: all ranks ended well, so they may wait for one another."""
        self.parts.engine.close(wait=not self._is_stuck and (together or not self._in_flight))
        self.parts.exchange.close(together)

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """Waits for the round in flight. lazy: see `Buffer.state_dict`.

        fetched: that round's exemplars; None to run it again after loading, on all ranks.
        """
        self.drain()
        return {
            "round": self._round,
            "buffer": self.parts.buffer.state_dict(lazy=lazy),
            "fetched": self._ready.state_dict() if self._ready is not None else None,
            **({} if self.parts.auto is None else {"auto": self.parts.auto.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Collective where nothing is `fetched`, which must then be so on every rank."""
        self._round = int(state["round"])
        self.parts.buffer.load_state_dict(state["buffer"])
        if self.parts.auto is not None and "auto" in state:
            self.parts.auto.load_state_dict(state["auto"])
        self._ready = self.parts.runner.restore(state["fetched"], self._round)
        if self._ready is None and self._round >= 0:
            if not self.parts.buffer.has_staged:
                self.parts.buffer.expire(self._round)  # time has passed
            self._round -= 1
            self._submit(ACTIVE)
            self._hear_statuses()

    def _submit(self, status: int) -> None:
        self._round += 1
        round_, offered, news, run = self._round, self._intake.num_distinct, self._statuses, self.parts.runner.run
        if self._peers is not None:
            self._peers.context = f"round {round_}"
        call: Callable[[], RoundResult]
        if news is None:
            call = lambda: run(round_, status, offered)  # noqa: E731
        else:
            call = lambda: news.watch(lambda: run(round_, status, offered, news.put))  # noqa: E731
        self.parts.engine.submit(call)
        self._in_flight = True

    def _hear_statuses(self) -> None:
        """With uneven="stop": whether some rank has ended, as soon as all ranks have handed in this round."""
        if self._statuses is not None:
            start = time.perf_counter()
            statuses = self._statuses.get()
            self.wait_seconds += time.perf_counter() - start
            self.stopped = statuses is not None and bool((statuses == FINISHED).any())

    def _wait(self) -> RoundResult | None:
        """The result of the last round; None before the first. Raises what the round raised."""
        if self._ready is not None:
            result, self._ready = self._ready, None
            return result
        if not self._in_flight:
            return None
        result = self._result()
        if result.someone_finished and self._is_error_if_uneven:
            raise result.uneven()
        return result

    def _result(self) -> RoundResult:
        self._in_flight = False
        try:
            return self.parts.engine.result(self._longest_round_s)
        except TimeoutError:
            self._is_stuck = True
            raise
