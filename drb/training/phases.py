"""The epochs, minibatches and optimisation steps of a phase: what happens inside a task.

Letters: A accumulated batches of one optimisation step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from drb.checkpoint import Saver
from drb.data.scenarios.task import Task
from drb.distributed.reduction import sum_over_ranks
from drb.training.batches import Batches
from drb.training.components import Components
from drb.training.learner import Learner
from drb.training.ledger import LedgerNotes
from drb.training.method.needs import Phase
from drb.training.method.optimizer_step import Step
from drb.training.reporting.reporter import Reporter
from drb.training.stored_rows import Deal, Loader, StoredRows
from drb.types import Minibatch


class PhaseTrainer:
    """Trains the phases of tasks. One per trainer.

    targets_are_known: the source was checked at the task's start; otherwise each minibatch is.
    """

    def __init__(
        self,
        components: Components,
        batches: Batches,
        reporter: Reporter,
        saver: Saver,
        on_step: Callable[[], None] | None,
        state_to_save: Callable[[], dict[str, Any]],
    ) -> None:
        self.targets_are_known = True
        self._components = components
        self._method = components.method
        self._progress = components.progress
        self._training = components.training
        self._schedule = components.schedule
        self._ledger = LedgerNotes(components)
        self._batches = batches
        self._reporter = reporter
        self._saver = saver
        self._on_step = on_step
        self._state_to_save = state_to_save

    @property
    def updates(self) -> int:
        """Optimisation steps so far that were not skipped."""
        return self._progress.steps - self._components.finite.skipped

    def train(self, task: Task, learner: Learner, loader: Loader, phase: Phase) -> None:
        """From the present position to the phase's end. Collective."""
        position, epochs = self._progress.position, phase.epochs or self._training.epochs
        if phase.rows == "stored":
            loader = self._stored_rows(loader)
        deal = loader.deal(position.epoch, position.earlier)
        done = position.epoch * loader.num_batches + sum(part.minibatches for part in position.earlier)
        left = deal.num_batches + (epochs - 1 - position.epoch) * loader.num_batches
        self._reporter.begin_phase(task, done + position.minibatch, done + left, epochs)
        learner.begin_phase(phase)
        learner.train()
        if position.begins_phase and self._schedule.span == "task":
            self._progress.epochs = 0
        while position.epoch < epochs:
            deal = loader.deal(position.epoch, position.earlier)
            self._ledger.begin_epoch(task, deal, phase)
            minibatches = loader.epoch(position.epoch, position.minibatch, position.earlier)
            self._train_epoch(task, learner, self._progress.breakdown.loader.over(minibatches), deal, phase)
            position.end_epoch()
            self._progress.epochs += 1

    def _stored_rows(self, loader: Loader) -> StoredRows:
        """What a phase on stored exemplars iterates: minibatches without rows of the stream. Collective."""
        rehearsal, world = self._components.rehearsal, self._components.world
        if rehearsal is None:
            raise ValueError("a phase on stored rows needs exemplars: a part of the method has to ask for them (needs)")
        stored = torch.tensor(sum(rehearsal.counts().values()), device=world.device)
        return StoredRows(
            int(sum_over_ranks([stored], world)[0]),
            self._batches.num_rehearsed,
            world_size=world.world_size,
            example=next(iter(loader.epoch(0))),
        )

    def _train_epoch(
        self, task: Task, learner: Learner, minibatches: Iterator[Minibatch], deal: Deal, phase: Phase
    ) -> None:
        """The epoch from the present position on."""
        size, every, position = self._training.accumulate, self._training.log_every, self._progress.position
        advance, saver, progress = self._reporter.monitor.advance, self._saver, self._progress
        rows_of_step, seen = deal.rows().tolist(), deal.share_seen
        for start in range(position.minibatch, len(rows_of_step), size):
            rows_A = rows_of_step[start : start + size]
            if not self._schedule.is_constant:
                epochs = progress.epochs + seen + (1 - seen) * start / len(rows_of_step)
                learner.scale_rate(self._schedule.rate_factor(epochs, phase.epochs or self._training.epochs))
            self._optimisation_step(learner, minibatches, rows_A)
            progress.steps += 1
            progress.rows += sum(rows_A)
            position.minibatch = start + len(rows_A)
            advance(len(rows_A))
            if self._on_step is not None:
                self._on_step()
            if progress.steps % every == 0:
                self._reporter.interval(learner, self.updates)
            if self._training.eval_every and progress.steps % self._training.eval_every == 0:
                self._reporter.during(task, learner)
            if progress.steps >= saver.next_step:
                saver.visit(progress.steps, self._state_to_save)

    def _optimisation_step(self, learner: Learner, minibatches: Iterator[Minibatch], rows_A: list[int]) -> None:
        """rows_A: rows of the stream on all ranks together, in each of the batches to accumulate."""
        batches, method = self._batches, self._method
        progress = self._progress
        step = Step(
            progress.steps + 1,
            learner.network,
            learner.rate,
            num_batches=len(rows_A),
            new_rows=sum(rows_A),
            num_tasks=progress.position.task + 1,
            cost=progress.cost,
            world=self._components.world,
        )
        loss: Tensor | None = None
        for index, minibatch in enumerate(islice(minibatches, len(rows_A))):
            self._check(minibatch)
            batch = batches.make(minibatch, rows_A[index], step)
            part = learner.backward(partial(batches.loss, batch), more=index < len(rows_A) - 1)
            batches.give_feedback(batch)
            batches.add_references(batch)
            loss = part if loss is None else loss + part
        step.reduce_references()
        change = partial(method.change_gradient, step) if method.changes_gradient else None
        has_moved = learner.step(step.expected_rows / step.rows, change)
        if has_moved:
            method.updated(step)
        if loss is not None and (has_moved or self._components.finite.policy != "skip"):
            self._progress.add_loss(loss)

    def _check(self, minibatch: Minibatch) -> None:
        if not self.targets_are_known:
            num_outputs = self._batches.learner.network.num_classes
            self._components.objective.check(
                minibatch, num_outputs, f"the minibatch of step {self._progress.steps + 1}"
            )
