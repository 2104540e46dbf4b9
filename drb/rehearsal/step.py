"""The order of things in a step, on the training thread. `Steps._take` is that order; docs/architecture.md tells why.

    check minibatch t → take this step's exemplars → commit minibatch t-1 → stage minibatch t → give → submit round t

The round of step t publishes what was committed, so minibatch t can be drawn from step t+1's on, when its late fields
are known, for every strategy and engine alike. It is submitted last: between the many small things that this thread
does here, a round on another thread would take the interpreter from it. pipeline.py has the rounds, round.py a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from torch import Tensor

from drb.rehearsal.cuda import DeferredLate, DeviceExtension, DeviceIntake, find_device
from drb.rehearsal.exemplars import StepExemplars
from drb.rehearsal.intake import Intake, on_cpu, require_fields
from drb.rehearsal.output import Extension, outside_inference_mode
from drb.rehearsal.parts import Parts
from drb.rehearsal.pipeline import Pipeline
from drb.rehearsal.settings import RehearsalSettings
from drb.types import Exemplars, Handle, Minibatch

if TYPE_CHECKING:
    from drb.rehearsal.feedback import FeedbackIntake

Output: TypeAlias = Extension | DeviceExtension
T = TypeVar("T")


class Steps:
    """One step per minibatch. Collective: every rank takes its steps in the same order.

    there: takes minibatches to the GPU where results are returned; None: minibatches and results are on the host.
    returns_home: a minibatch that lay elsewhere is sent back to where it lay, extended.
    feedback: takes what is learnt about exemplars; None: nothing depends on it.
    exemplars, last: of the last step that was taken, and its number; -1 before the first.
    """

    def __init__(
        self,
        parts: Parts,
        intake: Intake,
        rounds: Pipeline,
        output: Output,
        settings: RehearsalSettings,
        *,
        there: DeviceIntake | None = None,
        returns_home: bool = True,
        feedback: FeedbackIntake | None = None,
    ) -> None:
        self.last = -1
        self.exemplars: StepExemplars | None = None
        self.feedback = feedback
        self.extend_seconds = 0.0  # in all methods, of which:
        self.wait_seconds = 0.0  # waiting for a round
        self.inline_seconds = 0.0  # in rounds that run on this thread
        self.admission_seconds = 0.0  # deciding who is stored, and copying those
        self._parts = parts
        self._intake = intake
        self._rounds = rounds
        self._output = output
        self._there = there
        self._late: DeferredLate | None = None  # from the first late fields on a GPU on, of minibatches on the host
        self._returns_home = returns_home
        self._was_brought = False  # the last minibatch, to the host
        self._is_async = parts.is_async
        self._waits_for_all = settings.uneven == "stop"  # in every step

    @outside_inference_mode
    def extend(self, minibatch: Minibatch) -> Minibatch | None:
        """Take a step; return the minibatch with the exemplars behind it. See `Rehearsal.extend`."""
        start = time.perf_counter()
        extended = self._take(minibatch, self._output.extend)
        if extended is not None and self._was_brought and self._returns_home:
            home = next(iter(minibatch.values())).device
            extended = {name: value.to(home, non_blocking=True) for name, value in extended.items()}
        self.extend_seconds += time.perf_counter() - start
        return extended

    @outside_inference_mode
    def step(self, minibatch: Minibatch) -> Exemplars | None:
        """Take a step; return the exemplars by themselves. See `Rehearsal.step`."""
        start = time.perf_counter()
        named = self._take(minibatch, lambda _, exemplars: self._output.named(exemplars) if exemplars else None)
        self.extend_seconds += time.perf_counter() - start
        return named

    def _take(self, given: Minibatch, give: Callable[[Minibatch, StepExemplars | None], T]) -> T | None:
        """One step; what `give` makes of minibatch and exemplars, None once a rank has ended.

        Raises:
            ValueError: late fields are missing, or the minibatch is broken; nothing has changed.
        """
        parts, rounds, there, step = self._parts, self._rounds, self._there, self.last + 1
        buffer, start = parts.buffer, time.perf_counter()
        if rounds.broken_by is not None:
            rounds.require_sound()
        minibatch = self._accept(given)
        if there is not None or self._late is not None:
            self.settle()
        feedback = self.feedback
        if feedback is not None:
            feedback.settle(step)
        if parts.spec.late:
            buffer.require_late_fields()
        offered = self._intake.offered  # of the minibatches that this step's round can draw
        if there is not None:
            there.check(minibatch)
        else:
            offer, fields = self._intake.take(minibatch, parts.spec, parts.max_rows, step)
        checked = time.perf_counter()
        try:
            exemplars = rounds.take(step)
            received, self.last, self.exemplars = time.perf_counter(), step, exemplars
            if feedback is not None:
                feedback.begin(step, exemplars)
            buffer.commit()
            buffer.expire(step)
            if there is not None:
                there.stage(minibatch, step)
            else:
                buffer.stage(fields, offer)
            staged = time.perf_counter()
            result = give(minibatch, exemplars)
            if there is not None:
                there.send()
            before = time.perf_counter()
            rounds.submit(step, offered, feedback=feedback)
            end = time.perf_counter()
        except BaseException as error:
            rounds.break_off(error)
            raise
        self._was_brought = minibatch is not given
        self.wait_seconds += received - checked
        self.admission_seconds += checked - start + staged - received
        if not self._is_async:
            self.inline_seconds += end - before
        elif self._waits_for_all:
            self.wait_seconds += end - before
        return None if rounds.stopped else result

    @outside_inference_mode
    def attach(self, late_fields: dict[str, Tensor]) -> None:
        """Give the last minibatch its late fields, [b, …] each. See `Rehearsal.attach`."""
        start = time.perf_counter()
        is_plain, buffer = require_fields(late_fields), self._parts.buffer
        if self._there is not None:
            self._there.attach(late_fields)
        elif is_plain or not self._has_late_on_device(late_fields):
            self.settle()
            values = late_fields if is_plain else on_cpu(late_fields)
            self._parts.spec.check(values, buffer.num_staged_rows, late=True)
            buffer.attach(values)
        self.extend_seconds += time.perf_counter() - start

    @outside_inference_mode
    def give_feedback(self, handle: Handle | None, loss: Tensor, correct: Tensor | None, known: Tensor | None) -> None:
        """Take what was learnt about this step's exemplars. See `Rehearsal.feedback`."""
        if self.feedback is not None:
            start = time.perf_counter()
            self.feedback.give(handle, loss, correct, known)
            self.extend_seconds += time.perf_counter() - start

    def settle(self) -> None:
        """Decide on what was given on a device and has arrived by now, before anything else is done to the buffer."""
        if (waiting := self._there or self._late) is None:
            return
        try:
            waiting.settle()
        except BaseException as error:  # some of a row may have been written
            self._rounds.break_off(error)
            raise

    def erase(self) -> None:
        """Zero what was returned, and what minibatches on a device passed through. After `settle`."""
        self._output.erase()
        if (waiting := self._there or self._late) is not None:
            waiting.erase()

    def _accept(self, minibatch: Minibatch) -> Minibatch:
        """The fields on the host, unless they are taken to a device. Raises ValueError if they are none."""
        if self._there is not None:
            require_fields(minibatch)
        return on_cpu(minibatch) if self._there is None else minibatch

    def _has_late_on_device(self, late_fields: dict[str, Tensor]) -> bool:
        """Send for late fields that lie on a GPU; whether they do."""
        if self._late is None:
            device = find_device(None, late_fields)
            if device is None:
                return False
            self._late = DeferredLate(device, self._parts.buffer, self._parts.max_rows)
        if takes := self._late.takes(late_fields):
            self._late.attach(late_fields)
        return takes
