"""Tells the ledger of rehearsal what the loader is asked for, so that what was trained on takes no bytes."""

from __future__ import annotations

from drb.data.scenarios.task import Task
from drb.rehearsal.ledger.dealt import Dealing, Stretch
from drb.training.components import Components
from drb.training.method.needs import Phase
from drb.training.state.resume import loader_seed
from drb.training.stored_rows import Deal


class LedgerNotes:
    """One per trainer. It does nothing unless the rehearsal has a recorder."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._number_of: dict[int, int] = {}  # in the ledger, of each task's index

    def begin_epoch(self, task: Task, deal: Deal, phase: Phase) -> None:
        """What is left of an epoch begins at the present position."""
        components, position = self._components, self._components.progress.position
        rehearsal, world_size = components.rehearsal, components.world.world_size
        if rehearsal is None or rehearsal.recorder is None:
            return
        if task.index not in self._number_of:
            self._number_of[task.index] = rehearsal.recorder.begin_task(str(task), task.train.sample_ids)
        dealing = None
        if phase.rows != "stored":
            dealing = Dealing(
                loader_seed(components.seed, task.index),
                world_size,
                components.training.rows_per_rank(world_size),
                position.epoch,
                position.minibatch,
                position.earlier,
            )
        rehearsal.recorder.begin_stretch(
            Stretch(
                begin=rehearsal.next_step,
                minibatches=deal.num_batches - position.minibatch,
                taken=components.progress.steps,
                accumulate=components.training.accumulate,
                task=self._number_of[task.index],
                dealing=dealing,
            )
        )
