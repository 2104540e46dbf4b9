"""The batches that a method sees, made from the minibatches of the stream.

Exemplars join a minibatch, both go to the device, and the method may choose among candidates. A batch asks this module
for whatever needs the network, the rehearsal or the other ranks.

minibatch -> rehearsal.extend -> device -> select -> Batch
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch import Tensor, nn

from drb.distributed.reduction import sum_over_ranks
from drb.training.components import Components
from drb.training.feedback import FeedbackGiver
from drb.training.learner import Learner
from drb.training.method.batch import Batch
from drb.training.method.needs import ORIGIN
from drb.training.method.optimizer_step import Step
from drb.training.method.parameters import Weights
from drb.training.method.structure import count_rows, map_tensors, rows_of
from drb.types import Minibatch


class Batches:
    """Makes the batches of a trainer and serves them.

    learner: what trains the network; set at each task's begin.
    """

    learner: Learner

    def __init__(self, components: Components, num_exemplars: int | None) -> None:
        """
        Args:
            num_exemplars: how many of the candidates to train on, for a method that chooses among them; else None.
        Raises:
            ValueError: a method that chooses, but not how many; or more than it has candidates; an admission policy
                that does not fit the method.
        """
        if components.rehearsal is not None:
            policy = components.rehearsal.settings.policy
            components.method.needs.check_admission(policy, " + ".join(components.method.parts))
        candidates = components.method.needs.candidates
        if candidates is not None and (num_exemplars is None or num_exemplars > candidates):
            raise ValueError(
                f"{' + '.join(components.method.parts)} cannot choose "
                f"{'exemplars' if num_exemplars is None else f'{num_exemplars} exemplars'} of {candidates} candidates: "
                "let rehearsal.exemplars be a number, and no larger than that of the candidates"
            )
        self.method = components.method
        self.objective = components.objective
        self.world = components.world
        self._preprocess = components.preprocess
        self._rehearsal = components.rehearsal
        self._breakdown = components.progress.breakdown
        self._generator = components.randomness.augmentation
        self._num_exemplars = num_exemplars
        self._feedback: FeedbackGiver | None = None
        if self._rehearsal is not None and self._rehearsal.settings.needs_feedback:
            self._feedback = FeedbackGiver(self._rehearsal, self.method, self.objective)

    def make(self, minibatch: Minibatch, new_rows_total: int, step: Step) -> Batch:
        """The next batch of a step. Collective.

        Args:
            new_rows_total: rows of the minibatches of all ranks.
        """
        new_rows, draws = count_rows(minibatch), self.method.draws
        fields = self._to_device(self._extended(minibatch, new_rows))
        apart: Minibatch = {}
        if draws.apart:
            joined_rows = new_rows + (count_rows(fields) - new_rows) // draws.total * draws.joined
            apart = map_tensors(lambda field: field[joined_rows:], fields)
            fields = map_tensors(lambda field: field[:joined_rows], fields)
        batch = Batch(fields, apart, new_rows, draws.joined, new_rows_total, step, self)
        if self.method.needs.importance:
            batch.importance = self._importance(count_rows(fields) - new_rows)
        if ORIGIN in self.method.needs.late:
            self.attach({ORIGIN: torch.full((new_rows, 1), float(step.num_tasks - 1))})
        self.method.prepare(batch)
        if self.method.needs.candidates and count_rows(fields) > new_rows:
            self._select(batch)
        if not step.rows:  # as many exemplars in the step's other batches, as far as is known
            exemplars = batch.num_rows_total - new_rows_total
            step.expected_rows = step.new_rows + step.num_batches * exemplars
        step.rows += batch.num_rows_total
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """The method's loss.

        Raises:
            ValueError: the method has not asked for the batch's outputs, through which DDP exchanges gradients.
        """
        value = self.method.loss(batch)
        if not batch.has_outputs():
            names = " + ".join(self.method.parts)
            raise ValueError(
                f"the loss of {names} must use batch.outputs(), once per batch; extra_outputs() is beside it"
            )
        return value

    def give_feedback(self, batch: Batch) -> None:
        """Tell the rehearsal how its exemplars fared in the batch's forward, if it learns from that."""
        if self._feedback is not None:
            self._feedback.give(batch)

    def add_references(self, batch: Batch) -> None:
        """Gradients of the loss on the exemplars apart, summed over this rank's rows, for the end of the step."""
        kind, apart, past = self.method.needs.references, batch.apart, range(batch.step.num_tasks - 1)
        if kind == "none" or not apart or not count_rows(apart):
            return
        if kind == "one":
            self._add_reference(batch.step, 0, apart)
        elif kind == "past" and past:  # what is not known to be of this task was stored before
            self._add_reference(batch.step, 0, apart, (apart[ORIGIN][:, 0] != len(past)).float())
        elif kind == "per_task":
            for task in past:
                self._add_reference(batch.step, task, rows_of(apart, apart[ORIGIN][:, 0] == task))

    @property
    def num_rehearsed(self) -> int:
        """The exemplars of one draw that a rank trains on; 1 if that is still to be decided (exemplars=auto)."""
        assert self._rehearsal is not None
        number = self._rehearsal.stats()["exemplars"] if self._num_exemplars is None else self._num_exemplars
        return number if isinstance(number, int) else 1

    # -- for batches

    def num_selected(self, candidates: int) -> int:
        return candidates if self._num_exemplars is None else min(candidates, self._num_exemplars)

    def inputs(self, fields: Minibatch) -> Any:
        raw = self.objective.inputs(fields)
        return map_tensors(self.learner.as_laid_out, self._preprocess.train(raw, self._generator))

    def forward(self, inputs: Any) -> Any:
        return self.learner.forward(inputs)

    def extra_forward(
        self, step: Step, inputs: Any, network: nn.Module | None, weights: Weights | None, gradients: bool
    ) -> Any:
        rows = count_rows(inputs)
        if gradients:
            step.cost.trained += rows
        else:
            step.cost.forward += rows
        with contextlib.nullcontext() if gradients else torch.no_grad():
            return self.learner.extra_forward(
                inputs, network=network, weights=None if weights is None else weights.tensors
            )

    def stored_counts(self, num_classes: int) -> Tensor:
        if not self.method.needs.counts:
            raise ValueError(
                "a part of the method counts exemplars by class; it has to say so in its needs: counts=True"
            )
        counts = torch.zeros(num_classes, dtype=torch.int64, device=self.world.device)
        if self._rehearsal is None:
            return counts
        own, by, of_class = self._rehearsal.counts(), self._rehearsal.settings.stratum, self.objective.require_classes()
        if by != of_class:
            raise ValueError(
                f"{' + '.join(self.method.parts)} counts exemplars by class, but they are counted by "
                f"{by or 'nothing'}; set rehearsal.stratum={of_class}"
            )
        if own:
            counts[torch.tensor(list(own))] = torch.tensor(list(own.values()), device=counts.device)
        return sum_over_ranks([counts], self.world)[0]

    def attach(self, late_fields: Minibatch) -> None:
        if self._rehearsal is None:
            return
        for name in late_fields:
            if name not in self.method.needs.late:
                raise ValueError(f"the late field {name!r} is not among the method's needs; add it there")
        self._rehearsal.attach(**late_fields)

    def _extended(self, minibatch: Minibatch, new_rows: int) -> Minibatch:
        """The minibatch with exemplars behind it."""
        if self._rehearsal is None:
            return minibatch
        if not self.method.needs.late:
            return self._rehearsal.extend(minibatch)
        minibatch = self._to_device(minibatch)  # once, for the rehearsal and for the batch
        exemplars = self._rehearsal.step(minibatch)
        if exemplars is None:
            return minibatch
        stored = {**exemplars.fields, "sample_id": exemplars.sample_id}
        joined = {name: torch.cat([value, stored[name]]) for name, value in minibatch.items()}
        for name in self.method.needs.late:
            columns = torch.arange(stored[name].shape[1], device=stored[name].device)
            late = stored[name].masked_fill(columns >= exemplars.known[name][:, None], torch.nan)
            joined[name] = torch.cat([late.new_full((new_rows, len(columns)), torch.nan), late])
        return joined

    def _importance(self, joined: int) -> Tensor:
        """The importance weights of the exemplars that joined the minibatch, on its device: float32 [joined]."""
        if self._rehearsal is None or not joined:
            return torch.ones(joined, device=self.world.device)
        return self._rehearsal.importance()[:joined].to(self.world.device, non_blocking=True)

    def _select(self, batch: Batch) -> None:
        chosen = self.method.select(batch)
        if chosen.shape != (batch.num_selected,):
            raise ValueError(
                f"select() must choose {batch.num_selected} candidates, the same number on every rank, got "
                f"{list(chosen.shape)}"
            )
        batch.keep(chosen)

    def _add_reference(self, step: Step, group: int, fields: Minibatch, weights: Tensor | None = None) -> None:
        """The gradient of the sum of these rows' losses, each times its weight; without a wait for the device."""

        def loss() -> Tensor:
            rows = self.objective.row_losses(self.learner.extra_forward(self.inputs(fields)), fields)
            return rows.sum() if weights is None else (rows * weights).sum()

        rows = count_rows(fields)
        step.partial.add(group, self.learner.gradient_of(loss), rows if weights is None else weights.sum())
        step.cost.trained += rows

    def _to_device(self, fields: Minibatch) -> Minibatch:
        """Copies may still be queued when this returns: `extend` waits before it writes to their memory again."""
        if self.world.device.type == "cpu":
            return fields
        start = time.perf_counter()
        moved = {name: field.to(self.world.device, non_blocking=True) for name, field in fields.items()}
        self._breakdown.device_seconds += time.perf_counter() - start
        return moved
