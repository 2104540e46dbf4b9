"""What a training loop has learnt about this step's exemplars, on its way to the rounds.

    step t        extend → forward on the exemplars → feedback: copied, or sent for from a GPU
    step t + 1    another forward
    step t + 2    extend takes what has arrived from the GPU; the round that it submits, or the next one if this step
                  has none, tells all ranks

Which round tells it follows from the step, so nothing depends on when a GPU has computed it, on the engine or on the
exchange. A GPU that is not two steps behind lets nobody wait.

Letters: R exemplars of a step, N rows that no round has told yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.buffer.record import ROUND, SLOT
from drb.rehearsal.cuda import Device, Incoming, find_device
from drb.rehearsal.exemplars import StepExemplars
from drb.rehearsal.observing import NO_ROWS, FeedbackRows
from drb.types import Handle, Int64Array, Minibatch
from drb.warn import warn_caller

LAG = 2  # steps from the one that feedback is given in to the first whose round can tell it
_LOSS, _CORRECT, _KNOWN = "loss", "correct", "known"
_PATIENCE = 100  # steps without any feedback until a warning


class FeedbackIntake:
    """Takes feedback, and keeps it until its round. Used on the training thread.

    most_rows: of a round. who: needs the feedback, for messages. needs_correct: not only losses are needed.
    device: where values may lie; None: found out from the values.
    """

    def __init__(self, most_rows: int, who: str, *, needs_correct: bool = False, device: Device | None = None) -> None:
        self._most_rows, self._who, self._needs_correct = most_rows, who, needs_correct
        self._device = device
        self._step = -1
        self._exemplars: StepExemplars | None = None  # of this step
        self._is_given = False
        self._missed = 0  # steps with exemplars, until the first feedback
        self._incoming: list[Incoming] = []  # two, used in turn
        self._sent: deque[tuple[int, Int64Array]] = deque()  # steps, and the strata of what comes from a GPU
        self._arrived: deque[tuple[int, FeedbackRows]] = deque()  # steps, and what no round has told yet

    # -- a step

    def settle(self, step: int) -> None:
        """Take what has come from a GPU and can be told from this step on. Before anything else of the step.

        Raises:
            ValueError: a loss that is not finite, with the step that it was given in; that feedback is dropped.
        """
        while self._sent and self._sent[0][0] <= step - LAG:
            given, strata = self._sent.popleft()
            values = {name: value.numpy() for name, value in self._incoming[given % LAG].finish().items()}
            self._keep(given, strata, values)

    def begin(self, step: int, exemplars: StepExemplars | None) -> None:
        """This step's exemplars have been taken; feedback on them may be given until the next step."""
        self._missed += 0 if self._is_given or self._missed < 0 or not self._exemplars else 1
        if self._missed == _PATIENCE:
            self._missed = -1
            warn_caller(
                f"{self._who} learns from feedback, and {_PATIENCE} steps have given none, so it draws as if all were "
                "alike: call rehearsal.feedback(loss=…, correct=…) after each forward pass"
            )
        self._step, self._exemplars, self._is_given = step, exemplars, False

    def give(self, handle: Handle | None, loss: Tensor, correct: Tensor | None, known: Tensor | None) -> None:
        """See `Rehearsal.feedback`."""
        if self._is_given:
            raise ValueError("feedback() was given twice for one step's exemplars: give it once, after their forward")
        exemplars = self._exemplars
        values = {_LOSS: loss}
        if correct is not None:
            values[_CORRECT] = correct
        elif self._needs_correct:
            raise ValueError(
                f"{self._who} needs to know which exemplars were right: give feedback(correct=…), bool [r]"
            )
        if known is not None:
            values[_KNOWN] = known
        count = 0 if exemplars is None else len(exemplars)
        _check(values, count)
        if handle is not None and exemplars is not None:
            _require_same(handle, exemplars)
        if exemplars is not None and count:
            self._take(self._step, exemplars, values)
        self._is_given, self._missed = True, -1

    def due(self, step: int) -> FeedbackRows:
        """What the round that is submitted in this step tells."""
        arrived, parts, room = self._arrived, [], self._most_rows
        while arrived and arrived[0][0] <= step - LAG and len(arrived[0][1]) <= room:
            parts.append(arrived.popleft()[1])
            room -= len(parts[-1])
        return NO_ROWS if not parts else parts[0] if len(parts) == 1 else FeedbackRows.joined(parts)

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """What no round has told yet: step, stratum, loss and right, [N] each. Waits for what comes from a GPU."""
        self.settle(self._step + LAG)
        rows = FeedbackRows.joined([rows for _, rows in self._arrived])
        step = np.repeat([step for step, _ in self._arrived], [len(rows) for _, rows in self._arrived])
        return {"step": step.astype(np.int64), "stratum": rows.strata, "loss": rows.loss, "right": rows.right}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, cut into parts that one round can tell."""
        steps = state["step"]
        for step in np.unique(steps).tolist():
            index = np.flatnonzero(steps == step)
            for part in np.split(index, range(self._most_rows, len(index), self._most_rows)):
                rows = FeedbackRows(state["stratum"][part], state["loss"][part], state["right"][part])
                self._arrived.append((step, rows))

    # -- behind the scenes

    def _take(self, step: int, exemplars: StepExemplars, values: Minibatch) -> None:
        """Copy values that lie on the host, or send for them."""
        strata = exemplars.draw.stratum
        if strata is None:
            strata = np.full(len(exemplars), -1)
        device, loss = self._device_of(values), values[_LOSS].detach()
        if device is None:
            values[_LOSS] = loss.float() if loss.dtype == torch.bfloat16 else loss  # which numpy does not know
            self._keep(step, strata, {name: value.numpy() for name, value in values.items()})
            return
        values[_LOSS] = loss.float()
        if not self._incoming:
            self._incoming = [Incoming(device, self._most_rows) for _ in range(LAG)]
        self._incoming[step % LAG].begin(values)
        self._sent.append((step, strata))

    def _keep(self, step: int, strata: Int64Array, values: Mapping[str, Any]) -> None:
        """Copy what has arrived on the host."""
        loss = values[_LOSS].astype(np.float64)
        right = values[_CORRECT].copy() if _CORRECT in values else np.zeros(len(loss), np.bool_)
        if _KNOWN in values:
            known = values[_KNOWN]
            strata, loss, right = strata[known], loss[known], right[known]
        if not np.isfinite(loss).all():
            places = np.flatnonzero(~np.isfinite(loss)).tolist()
            raise ValueError(
                f"the loss given to feedback() in step {step} is not finite for {len(places)} exemplars, the first of "
                f"which is {loss[places[0]]}: leave them out by known=, bool [r]"
            )
        self._arrived.append((step, FeedbackRows(strata, loss, right)))

    def _device_of(self, values: Minibatch) -> Device | None:
        """The device on which some of the values lie; None if all lie on the host."""
        if self._device is not None and any(map(self._device.owns, values.values())):
            return self._device
        if all(value.is_cpu for value in values.values()):
            return None
        self._device = find_device(None, values)
        return self._device


def _check(values: Minibatch, count: int) -> None:
    """Raise ValueError unless these are one value for each of so many exemplars, of the right kind."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape != (count,):
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"feedback({name}=…) must be a tensor with one value for each of this step's {count} exemplars, in "
                f"their order, got {got}"
            )
        is_right = value.dtype.is_floating_point if name == _LOSS else value.dtype == torch.bool
        if not is_right:
            kind = "floating-point numbers" if name == _LOSS else "bool"
            raise ValueError(f"feedback({name}=…) must hold {kind}, got {value.dtype}")


def _require_same(handle: Handle, exemplars: StepExemplars) -> None:
    """Raise ValueError unless these are the handles of this step's exemplars."""
    own, rows = exemplars.draw.owner, exemplars.rows
    pairs = ((handle.rank, own), (handle.slot, rows[:, SLOT]), (handle.generation, rows[:, ROUND]))
    if all(given is now or np.array_equal(given, now) for given, now in pairs):
        return
    raise ValueError(
        "feedback() was given the handles of other exemplars than this step's: give Exemplars.handle as step() has "
        "returned it last, or leave it out"
    )
