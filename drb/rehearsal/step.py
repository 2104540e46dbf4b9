"""The order of things in a step, on the training thread.

    wait for this step's exemplars → commit minibatch t-1 → hand in the round of step t → stage minibatch t → start it

The round starts when all else is done: here this thread does many small things, between which the round's would take
the interpreter from it; in the forward and backward pass it does large ones.

The round of step t publishes what was committed, so minibatch t can be drawn from step t+1's on, when its late fields
are known, for every strategy and engine alike. `drb.rehearsal.pipeline` has the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from drb.buffer.buffer import Buffer
from drb.exchange import Peers
from drb.rehearsal.cuda import DeferredIntake, Device, find_device
from drb.rehearsal.intake import Intake, on_cpu, require_fields
from drb.rehearsal.parts import Parts
from drb.rehearsal.pipeline import Pipeline
from drb.rehearsal.round import StepExemplars
from drb.rehearsal.settings import RehearsalSettings
from drb.types import Minibatch


class Turns:
    """One turn per minibatch, collective: every rank takes them in the same order."""

    def __init__(self, parts: Parts, intake: Intake, peers: Peers | None, settings: RehearsalSettings) -> None:
        self.parts = parts
        self.wait_seconds = 0.0  # in `take`
        self.inline_seconds = 0.0  # in `start_round`, for rounds that run here
        self.admission_seconds = 0.0
        self._intake = intake
        self._rounds = Pipeline(parts, peers, settings)
        self._deferred = self._defer_to(parts.outlet.device if parts.outlet is not None else None)
        self._waits_for_all = settings.uneven == "stop"  # in every step
        self._step = -1  # the last one taken

    @property
    def stopped(self) -> bool:
        """A rank has ended and, with uneven="stop", all are to."""
        return self._rounds.stopped

    def take(self, minibatch: Minibatch) -> StepExemplars | None:
        """This step's exemplars in, the next round handed in, this minibatch staged. None in the first steps.

        Raises:
            ValueError: late fields are missing, or a minibatch is broken; nothing has changed.
        """
        start = time.perf_counter()
        self._rounds.require_sound()
        self.settle()
        self.parts.buffer.require_late_fields()
        offered = self._intake.num_distinct  # of the minibatches that the round can draw
        stage = self._prepare(minibatch, self._step + 1)
        self.admission_seconds += time.perf_counter() - start
        try:
            return self._advance(offered, stage)
        except BaseException as error:
            self.break_off(error)
            raise

    def _advance(self, offered: int, stage: Callable[[], object]) -> StepExemplars | None:
        """The part of a turn that cannot be repeated. offered, stage: of a minibatch that was found good."""
        buffer, rounds, step, taken = self.parts.buffer, self._rounds, self._step + 1, time.perf_counter()
        exemplars = rounds.take(step)
        waited = time.perf_counter()
        self._step = step
        buffer.commit()
        buffer.expire(step)
        committed = time.perf_counter()
        rounds.hand_in(step, offered)
        handed_in = time.perf_counter()
        stage()
        self.wait_seconds += waited - taken
        self.admission_seconds += committed - waited + time.perf_counter() - handed_in
        return exemplars

    def start_round(self) -> None:
        """After `take` and whatever else there is to do in this turn. `stopped` is known afterwards."""
        start = time.perf_counter()
        self._rounds.start()
        seconds = time.perf_counter() - start
        if not self.parts.is_async:
            self.inline_seconds += seconds
        elif self._waits_for_all:
            self.wait_seconds += seconds

    def break_off(self, error: BaseException) -> None:
        """Something failed after which rounds and buffer may not fit together: this cannot go on."""
        self._rounds.break_off(error)

    def attach(self, late_fields: Minibatch) -> None:
        """The late fields of the last minibatch, [b, …] each. See `Rehearsal.attach`."""
        is_plain, deferred, buffer = require_fields(late_fields), self._deferred, self.parts.buffer
        if deferred is None and not is_plain:
            device = find_device(None, late_fields)
            deferred = self._deferred = self._defer_to(device)
        if deferred is not None:
            if deferred.takes(late_fields):
                deferred.attach(late_fields)
                return
            self.settle()
        values = late_fields if is_plain else on_cpu(late_fields)
        self.parts.spec.check(values, buffer.num_staged_rows, late=True)
        buffer.attach(values)

    def settle(self) -> None:
        """Decide on what was given on a device and has arrived by now, before anything else is done to the buffer."""
        if self._deferred is None:
            return
        try:
            self._deferred.settle()
        except BaseException as error:  # some of a row may have been written
            self.break_off(error)
            raise

    def settled_buffer(self) -> Buffer:
        """The buffer, with all that was given."""
        self.settle()
        return self.parts.buffer

    def erase(self) -> None:
        """Zero what minibatches on a device passed through. After `settle`."""
        if self._deferred is not None:
            self._deferred.erase()

    def drain(self) -> None:
        """Wait for the rounds in flight and keep what they fetched for the next turns."""
        self.settle()
        self._rounds.drain()

    def run_again(self) -> None:
        """After `drain`: fetch the next steps' exemplars anew, from what the buffers hold now. Collective."""
        self._rounds.run_again(self._step, self._intake.num_distinct)

    def finish(self) -> None:
        """The last turn: tell the other ranks that this one ends. Raises UnevenError if others go on."""
        if self.stopped:
            return
        if self._rounds.is_broken:
            self._rounds.discard()
        else:
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

    def _prepare(self, minibatch: Minibatch, step: int) -> Callable[[], object]:
        """Check a minibatch; what stages it, on the host, or sends for it, from a device."""
        deferred, parts = self._deferred, self.parts
        if deferred is not None and deferred.takes(minibatch):
            deferred.check(minibatch)
            return lambda: deferred.begin(minibatch, step)
        offer, fields = self._intake.take(minibatch, parts.spec, parts.max_rows, step)
        return lambda: parts.buffer.stage(fields, offer)

    def _defer_to(self, device: Device | None) -> DeferredIntake | None:
        if device is None:
            return None
        return DeferredIntake(device, self._intake, self.parts.buffer, self.parts.max_rows)
