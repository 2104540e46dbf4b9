"""Batches from minibatches: exemplars join them, they go to the device, and forwards are made for them.

    minibatch -> rehearsal.extend -> device -> select -> Batch
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.batch import Batch
from drb.training.breakdown import Breakdown
from drb.training.learner import Learner
from drb.training.objectives.objective import Objective
from drb.training.parameters import Weights
from drb.training.step import Step
from drb.training.structure import count_rows, map_tensors
from drb.types import Minibatch

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal
    from drb.training.method import Method


class Batches:
    """Makes batches, and does for them what needs the learner, the rehearsal or the ranks. One per trainer.

    learner: set at each task's begin.
    """

    learner: Learner

    def __init__(
        self,
        method: Method,
        objective: Objective,
        preprocess: Preprocess,
        world: World,
        *,
        rehearsal: Rehearsal | None,
        breakdown: Breakdown,
        generator: torch.Generator,
        num_exemplars: int | None = None,
    ) -> None:
        """
        Args:
            generator: of augmentation.
            num_exemplars: how many of the candidates to train on, for a method that chooses among them.
        """
        self.method = method
        self.objective = objective
        self.world = world
        self._preprocess = preprocess
        self._rehearsal = rehearsal
        self._breakdown = breakdown
        self._generator = generator
        self._num_exemplars = num_exemplars

    def make(self, minibatch: Minibatch, new_rows_total: int, step: Step) -> Batch:
        """The next batch of a step. Collective.

        Args:
            new_rows_total: rows of the minibatches of all ranks.
        """
        new_rows, draws = count_rows(minibatch), self.method.draws
        fields = self._to_device(minibatch if self._rehearsal is None else self._rehearsal.extend(minibatch))
        apart: Minibatch = {}
        if draws.apart:
            joined_rows = new_rows + (count_rows(fields) - new_rows) // draws.total * draws.joined
            apart = map_tensors(lambda field: field[joined_rows:], fields)
            fields = map_tensors(lambda field: field[:joined_rows], fields)
        batch = Batch(fields, apart, new_rows, draws.joined, new_rows_total, step, self)
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
            raise ValueError(f"the loss of {names} must use batch.outputs(), once per batch; extra_outputs() is beside it")
        return value

    def add_references(self, batch: Batch) -> None:
        """Gradients of the loss on the exemplars apart, summed over this rank's rows, for the end of the step."""
        kind = self.method.needs.references
        if kind == "none" or not batch.apart or not count_rows(batch.apart):
            return
        groups = [slice(None)] if kind == "one" else [batch.apart["task"] == task for task in range(batch.step.num_tasks)]
        for group, rows in enumerate(groups):
            fields: Minibatch = map_tensors(lambda field, rows=rows: field[rows], batch.apart)  # type: ignore[misc]
            batch.step.partial.add(group, self.learner.gradient_of(lambda: self._loss_apart(fields)), count_rows(fields))  # noqa: B023
            batch.step.cost.trained += count_rows(fields)

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

    def attach(self, late_fields: Minibatch) -> None:
        if self._rehearsal is None:
            return
        declared = self.method.needs.late
        padded = {}
        for name, value in late_fields.items():
            if name not in declared:
                raise ValueError(f"the late field {name!r} is not among the needs, {sorted(declared)}; say so in needs()")
            padded[name] = self._padded(name, value)
        self._rehearsal.attach(**padded)

    def _padded(self, name: str, value: Tensor) -> Tensor:
        """float32 [b, columns], NaN where there is no output yet."""
        assert self._rehearsal is not None
        spec = self._rehearsal.spec
        columns = spec.fields[name].shape[0]
        if value.shape[1] > columns:
            raise ValueError(
                f"the network has {value.shape[1]} outputs, but the record's field {name!r} holds {columns}; give it as "
                "many as the head will ever have"
            )
        return torch.nn.functional.pad(value, (0, columns - value.shape[1]), value=torch.nan)

    def _select(self, batch: Batch) -> None:
        chosen = self.method.select(batch)
        if chosen.shape != (batch.num_selected,):
            raise ValueError(
                f"select() must choose {batch.num_selected} candidates, the same number on every rank, got "
                f"{list(chosen.shape)}"
            )
        batch.keep(chosen)

    def _loss_apart(self, fields: Minibatch) -> Tensor:
        outputs = self.learner.extra_forward(self.inputs(fields))
        return self.objective.row_losses(outputs, fields).sum()

    def _to_device(self, fields: Minibatch) -> Minibatch:
        """Copies may still be queued when this returns: `extend` waits before it writes to their memory again."""
        if self.world.device.type == "cpu":
            return fields
        start = time.perf_counter()
        moved = {name: field.to(self.world.device, non_blocking=True) for name, field in fields.items()}
        self._breakdown.device_seconds += time.perf_counter() - start
        return moved
