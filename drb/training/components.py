"""What a trainer is made of; its helpers are given all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.evaluation.scores import Scores
from drb.training.finite import FiniteCheck
from drb.training.method.method import Method
from drb.training.networks import Networks
from drb.training.objectives import Objective
from drb.training.optimizers import OptimizerBuilder
from drb.training.schedules import Schedule
from drb.training.settings import TrainingSettings
from drb.training.state.progress import Progress
from drb.training.state.randomness import Randomness

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal


@dataclass
class Components:
    """One set per trainer. rehearsal: None if the method needs no exemplars."""

    method: Method
    objective: Objective
    preprocess: Preprocess
    rehearsal: Rehearsal | None
    world: World
    training: TrainingSettings
    optimizer: OptimizerBuilder
    schedule: Schedule
    seed: int
    progress: Progress
    finite: FiniteCheck
    scores: Scores
    networks: Networks
    randomness: Randomness

    def begin_rehearsed_task(self, index: int) -> None:
        """Let the rehearsal know that a task begins, with the scores on held-out samples so far. Collective."""
        if self.rehearsal is not None:
            self.rehearsal.begin_task(index, self.scores.held_out())
