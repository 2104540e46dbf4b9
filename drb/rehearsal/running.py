"""A rehearsal from its first minibatch on, as it is asked for between steps; `drb.rehearsal.step` has the steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drb.buffer.editing import EditableBuffer
from drb.exchange import Peers
from drb.rehearsal.edit import Edit, told_on_all_ranks, total_of
from drb.rehearsal.forget import Forgotten, agree_on_ids, total
from drb.rehearsal.intake import Intake
from drb.rehearsal.parts import Parts
from drb.rehearsal.pipeline import Pipeline
from drb.rehearsal.selection import SampleIds, Where, as_ids, matching_ids
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.loading import kind_of_state
from drb.rehearsal.step import Steps
from drb.types import Int64Array

if TYPE_CHECKING:
    from drb.rehearsal.state.learnt import Learnt
    from drb.rehearsal.tasks import BegunTask
    from drb.sampling.proportions.base import History


class Running:
    """The parts of a rehearsal at work. Its methods wait for what was given on a device (`settle`).

    earlier: the statistics up to where the run was resumed; empty for a new one. task: that has begun, if it was told.
    """

    def __init__(
        self,
        parts: Parts,
        intake: Intake,
        steps: Steps,
        rounds: Pipeline,
        peers: Peers | None,
        settings: RehearsalSettings,
        earlier: Mapping[str, Any],
    ) -> None:
        self.parts = parts
        self.steps = steps
        self.rounds = rounds
        self.earlier = earlier
        self.task: BegunTask | None = None
        self._intake = intake
        self._peers = peers
        self._settings = settings

    # -- what is known

    def counts(self, *, wait: bool = True) -> dict[int, int]:
        """Exemplars in this rank's buffer per stratum. wait: for the last minibatch if it comes from a GPU."""
        return (self._settled_buffer() if wait else self.parts.buffer).counts()

    def sample_ids(self) -> Int64Array:
        """Ids of the samples in this rank's buffer: int64 [n], a copy."""
        return self._settled_buffer().sample_ids()

    def ages(self) -> Int64Array:
        """Minibatches since each exemplar in this rank's buffer was stored: int64 [n]."""
        columns = self._settled_buffer().columns
        return self.steps.last - columns.admitted_round[: columns.size]

    def importance(self) -> Tensor:
        """See `Rehearsal.importance`."""
        exemplars = self.steps.exemplars
        if not self._settings.importance:
            raise ValueError("importance() needs offers to be counted: make the rehearsal with importance=True")
        if exemplars is None:
            return torch.empty(0)
        assert exemplars.draw.importance is not None
        return torch.from_numpy(exemplars.draw.importance).float()

    def drain(self) -> None:
        """Wait for the rounds in flight and keep what they fetched for the next steps."""
        self.steps.settle()
        self.rounds.drain()
        self.parts.runner.delivery.settle()

    # -- a task

    def begin_task(self, index: int, accuracies: History) -> None:
        """Tell what follows tasks, and run the rounds that were fetched ahead again. Collective."""
        from drb.rehearsal.tasks import agreed_task  # seldom needed

        self.drain()  # also for agreeing: two threads cannot use one group
        self.tell(agreed_task(index, accuracies, self._settings, self._peers))
        if self.parts.auto is not None:
            self.parts.auto.begin_task()
        self.rounds.run_again(self.steps.last, self._intake.offered)

    def tell(self, task: BegunTask) -> None:
        """Let the proportions know of a task, between two rounds."""
        self.parts.proportions.begin_task(task.index, task.accuracies)
        self.task = task  # unless it was refused

    # -- erasure

    def forget(self, sample_ids: SampleIds | None, where: Where | None) -> Forgotten:
        """Remove exemplars between two steps, on all ranks together. Collective; the caller denies the ids.

            drain the rounds in flight → agree on the ids → commit, remove, zero → run the rounds again

        Agreeing is the barrier: every rank has drained, so nobody reads a peer's rows until rounds are run again. They
        have the same numbers and draw from what is left, so the next step gets min(r, N) exemplars as any other.

        Raises:
            ValueError: late fields are missing, or no proper selection; on all ranks, and nothing was removed.
        """
        self.drain()
        buffer = self.parts.buffer

        def select() -> Int64Array:
            if buffer.lacks_late_fields:
                raise ValueError("the last minibatch lacks its late fields: call forget() after attach(…)")
            ids = as_ids(sample_ids)
            if where is None:
                return ids
            matching = matching_ids(where, self.parts.spec, buffer.rows, buffer.occupied_rows())
            prefilled = self.parts.prefilled
            if prefilled is not None:  # of which each rank looks at its share
                rank, world_size = (self._peers.rank, self._peers.world_size) if self._peers else (0, 1)
                share = prefilled.rows[rank::world_size]
                matching = np.union1d(matching, matching_ids(where, self.parts.spec, prefilled, share))
            return np.union1d(ids, matching)

        ids = agree_on_ids(self._peers, select)
        buffer.commit()
        slots = buffer.slots_of(ids)
        buffer.remove(slots)
        buffer.erase_free_rows()
        self.parts.runner.erase()
        self.steps.erase()
        removed = total(self._peers, len(slots))
        if self.parts.prefilled is not None:
            removed += self.parts.prefilled.drop(ids)  # the same ones on every rank
        self.rounds.run_again(self.steps.last, self._intake.offered)
        return Forgotten(ids, removed)

    @contextmanager
    def edit(self) -> Iterator[Edit]:
        """Rewrite what is stored, between two steps: see `drb.rehearsal.edit`. Collective at the begin and at the end.

            drain the rounds in flight → barrier → commit → edit in place → barrier → run the rounds again

        Raises:
            ValueError: late fields are missing, a rank's edit failed, or there is no room for what was inserted; on all
                ranks. What was edited before the error stays edited.
        """
        self.drain()
        steps, buffer = self.steps, self.parts.buffer
        with told_on_all_ranks(self._peers, "edit"):
            if buffer.lacks_late_fields:
                raise ValueError("the last minibatch lacks its late fields: call edit() after attach(…)")
        buffer.commit()
        edit, told, failure = Edit(buffer, self.parts.spec, self._intake, self._settings, steps.last), {}, None
        self.steps = Refusing()  # type: ignore[assignment]
        try:
            with told_on_all_ranks(self._peers, "edit") as told:
                try:
                    yield edit
                finally:
                    told |= {"changed": edit.has_changed, "waiting": edit.num_without_room, "room": edit.room}
        except Exception as error:
            failure = error
        finally:
            edit.close()
            self.steps = steps
            if "ranks" not in told:  # nobody knows what the others have done
                self.rounds.break_off(failure or RuntimeError("an edit was left by something else than an error"))
        if "ranks" in told:
            failure = failure or self._send_on(edit, told)
            if total_of(told, "changed").any():
                self.rounds.run_again(steps.last, self._intake.offered)
        if failure is not None:
            raise failure

    def _send_on(self, edit: Edit, told: dict[str, Any]) -> ValueError | None:
        """Give inserted samples without room to other ranks; an error if there is too little room. Collective."""
        waiting, room = total_of(told, "waiting"), total_of(told, "room")
        if waiting.sum() > room.sum():
            return ValueError(
                f"{waiting.sum()} exemplars were inserted for which no rank has room (there is room for {room.sum()}); "
                "they were left out: remove() others first"
            )
        if waiting.any() and self._peers is not None:
            edit.send_on(self._peers, waiting, room)
        return None

    def deny(self, sample_ids: Int64Array) -> None:
        """Never store these samples again."""
        self.parts.buffer.deny(sample_ids)

    # -- state

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """Everything that the next steps depend on. Waits for the rounds in flight.

        lazy: see `Buffer.state_dict`. fetched: the next steps' exemplars; None to fetch them anew after loading, on all
        ranks.
        """
        self.drain()
        parts = self.parts
        return {
            **kind_of_state(self._settings, parts.origin),
            "denied": parts.buffer.denied,
            "max_rows": parts.max_rows,
            "spec": json.dumps(parts.spec.to_json()),
            "intake": self._intake.state_dict(),
            "round": self.steps.last,
            "buffer": parts.buffer.state_dict(lazy=lazy),
            "fetched": self.rounds.state_dict(),
            "prefilled": "" if parts.prefilled is None else parts.prefilled.fingerprint,
            **({} if parts.auto is None else {"auto": parts.auto.state_dict()}),
            "task": "" if self.task is None else self.task.to_json(),
            **self._learnt().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, begins_task: bool = False) -> None:
        """Go on from a state. Collective where nothing is `fetched`, which must then be so on every rank.

        begins_task: a task has begun since it was saved.
        """
        self._intake.load_state_dict(state["intake"])
        self.steps.last = int(state["round"])
        self.parts.buffer.load_state_dict(state["buffer"])
        if self.parts.auto is not None and "auto" in state:
            self.parts.auto.load_state_dict(state["auto"])
        if self.parts.auto is not None and begins_task:
            self.parts.auto.begin_task()
        if "learnt" in state:
            self._learnt().load_state_dict(state["learnt"])
        self.rounds.load_state_dict(state["fetched"], self.steps.last, self._intake.offered)

    # -- the end

    def finish(self) -> None:
        """Tell the other ranks that this one ends. Raises UnevenError if others go on."""
        if self.rounds.stopped:
            return
        if self.rounds.broken_by is not None:
            self.rounds.discard()
        else:
            self.drain()
            if not self.parts.buffer.lacks_late_fields:
                self.parts.buffer.commit()
        self.rounds.finish(self.steps.last + 1, self._intake.offered)

    def _learnt(self) -> Learnt:
        """What the proportions have learnt, to be saved or loaded."""
        from drb.rehearsal.state.learnt import Learnt  # seldom needed

        parts = self.parts
        return Learnt(parts.proportions, parts.runner.observing, self.steps.feedback)

    def _settled_buffer(self) -> EditableBuffer:
        self.steps.settle()
        return self.parts.buffer


class Refusing:
    """Stands in the place of a rehearsal's steps while it is edited: whatever is asked of them is refused."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("the rehearsal is being edited: leave `with rehearsal.edit()` before anything else")
