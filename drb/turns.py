"""The order of things in a step, on the training thread.

    wait for this step's exemplars  →  commit minibatch t-1  →  hand in the round of step t  →  stage minibatch t

The round of step t publishes what was committed, so minibatch t can be drawn from step t+1's on, when its late fields
are known, for every strategy and engine alike. `drb.pipeline` has the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from drb.assembly import Parts
from drb.exchange import Peers
from drb.intake import Intake
from drb.pipeline import Pipeline
from drb.round import StepExemplars
from drb.settings import RehearsalSettings
from drb.types import Minibatch


class Turns:
    """One turn per minibatch, collective: every rank takes them in the same order."""

    def __init__(self, parts: Parts, intake: Intake, peers: Peers | None, settings: RehearsalSettings) -> None:
        self.parts = parts
        self.wait_seconds = 0.0  # in `take`
        self.admission_seconds = 0.0
        self._intake = intake
        self._rounds = Pipeline(parts, peers, settings)
        self._step = -1  # the last one taken

    @property
    def stopped(self) -> bool:
        """A rank has ended and, with uneven="stop", all are to."""
        return self._rounds.stopped

    def take(self, minibatch: Minibatch) -> StepExemplars | None:
        """This step's exemplars in, the next round on its way, this minibatch staged. None in the first steps.

        Raises:
            ValueError: late fields are missing, or a minibatch is broken; nothing has changed.
        """
        buffer, rounds, step, start = self.parts.buffer, self._rounds, self._step + 1, time.perf_counter()
        buffer.require_late_fields()
        offered = self._intake.num_distinct  # of the minibatches that the round can draw
        offer, fields = self._intake.take(minibatch, self.parts.spec, self.parts.max_rows, step)
        taken = time.perf_counter()
        exemplars = rounds.take(step)
        waited = time.perf_counter()
        buffer.commit()
        buffer.expire(step)
        committed = time.perf_counter()
        rounds.hand_in(step, offered)
        self._step = step
        handed_in = time.perf_counter()
        buffer.stage(fields, offer)
        staged = time.perf_counter()
        rounds.hear_statuses()
        self.wait_seconds += waited - taken + time.perf_counter() - staged
        self.admission_seconds += taken - start + committed - waited + staged - handed_in
        return exemplars

    def drain(self) -> None:
        """Wait for the rounds in flight and keep what they fetched for the next turns."""
        self._rounds.drain()

    def run_again(self) -> None:
        """After `drain`: fetch the next steps' exemplars anew, from what the buffers hold now. Collective."""
        self._rounds.run_again(self._step, self._intake.num_distinct)

    def finish(self) -> None:
        """The last turn: tell the other ranks that this one ends. Raises UnevenError if others go on."""
        if self.stopped:
            return
        self.drain()
        if not self.parts.buffer.lacks_late_fields:
            self.parts.buffer.commit()
        self._rounds.finish(self._step + 1, self._intake.num_distinct)

    def cause_of(self, error: BaseException) -> BaseException | None:
        """Why another rank ended, if that is what this error comes from and a round knows."""
        return self._rounds.cause_of(error)

    def release(self, together: bool) -> None:
        """Let go of threads and memory. together: all ranks ended well, so they may wait for one another."""
        self._rounds.release(together)

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """Waits for the rounds in flight. lazy: see `Buffer.state_dict`.

        fetched: the next steps' exemplars; None to fetch them anew after loading, on all ranks.
        """
        self.drain()
        return {
            "round": self._step,
            "buffer": self.parts.buffer.state_dict(lazy=lazy),
            "fetched": self._rounds.state(),
            **({} if self.parts.auto is None else {"auto": self.parts.auto.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Collective where nothing is `fetched`, which must then be so on every rank."""
        self._step = int(state["round"])
        self.parts.buffer.load_state_dict(state["buffer"])
        if self.parts.auto is not None and "auto" in state:
            self.parts.auto.load_state_dict(state["auto"])
        self._rounds.load(state["fetched"], self._step, self._intake.num_distinct)
