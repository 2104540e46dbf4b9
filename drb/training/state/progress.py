"""How far a run has come, and what it has measured on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drb.distributed.reduction import sum_over_ranks
from drb.distributed.world import World
from drb.training.method.optimizer_step import Cost
from drb.training.reporting.breakdown import Breakdown, Interval, Stopwatch
from drb.training.state.position import Position

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal


class Progress:
    """One per trainer.

    position: the next minibatch. steps: optimisation steps. rows: of the stream, over all ranks, without exemplars.
    epochs:   since the schedule of the learning rate began.
    cost:     rows that were computed on this rank.
    mean_cost: rows that were computed up to the end of the last task, the mean over the ranks, and the bytes that the
        method keeps on each.
    history:  one entry per task.
    during_seconds: of training, at each evaluation in the midst of tasks.
    """

    def __init__(self, world: World, rehearsal: Rehearsal | None) -> None:
        self.position = Position()
        self.steps = 0
        self.rows = 0
        self.epochs = 0
        self.cost = Cost()
        self.mean_cost = {"rows_trained": 0.0, "rows_forward": 0.0, "method_bytes": 0.0}
        self.history: list[dict[str, Any]] = []
        self.during_seconds: list[float] = []
        self.clock = Stopwatch()
        self.breakdown = Breakdown(self.clock, rehearsal)
        self._world = world
        self._loss_sum = torch.zeros((), device=world.device)
        self._interval = Interval()

    def begin_interval(self, updates: int) -> None:
        """Logged points begin anew. updates: steps so far that were not skipped."""
        self._loss_sum.zero_()
        self._interval = Interval(updates, self.rows)

    def add_loss(self, loss: Tensor) -> None:
        """This rank's part of a step's loss."""
        self._loss_sum += loss

    def interval(self, updates: int) -> dict[str, float]:
        """The mean loss over the steps since the last call and all ranks, throughput and cost. Collective."""
        own = torch.cat([self._loss_sum.double()[None], self.cost.as_tensor().to(self._loss_sum.device)])
        loss, *cost = sum_over_ranks([own], self._world)[0].tolist()
        seconds, steps, rows = self._interval.next(updates, self.rows)
        self._loss_sum.zero_()
        return {
            "train/loss": loss / (steps * self._world.world_size) if steps else math.nan,
            "train/samples_per_second": rows / seconds,
            **{f"train/{name}": value for name, value in self._mean(cost).items()},
            **self.breakdown.interval(self.steps),
        }

    def end_task(self, method_bytes: int) -> dict[str, float]:
        """Bring `mean_cost` up to date. Collective."""
        cost = sum_over_ranks([self.cost.as_tensor()], self._world)[0].tolist()
        self.mean_cost = {**self._mean(cost), "method_bytes": float(method_bytes)}
        return self.mean_cost

    def _mean(self, cost: list[float]) -> dict[str, float]:
        """cost: of all ranks together."""
        trained, forward = (value / self._world.world_size for value in cost)
        return {"rows_trained": trained, "rows_forward": forward}

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """What is rank 0's for all, but `own_state`."""
        return {
            "position": asdict(self.position),
            "steps": self.steps,
            "rows": self.rows,
            "epochs": self.epochs,
            "mean_cost": self.mean_cost,
            "history": self.history,
            "during_seconds": list(self.during_seconds),
            "clock": self.clock.state_dict(),
            "breakdown": self.breakdown.state_dict(),
            "interval": self._interval.state_dict(),
        }

    def own_state(self) -> dict[str, Tensor]:
        return {"loss_sum": self._loss_sum, "cost": self.cost.as_tensor()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.steps, self.rows, self.epochs = state["steps"], state["rows"], state["epochs"]
        self.mean_cost = dict(state["mean_cost"])
        self.history, self.during_seconds = state["history"], list(state["during_seconds"])
        self.clock.load_state_dict(state["clock"])
        self.breakdown.load_state_dict(state["breakdown"])
        self._interval.load_state_dict(state["interval"])

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        self._loss_sum.copy_(state["loss_sum"])
        self.cost.load(state["cost"])
