"""What the network can do after each task, on every task seen so far.

R[i][j]: fraction correct on task j's test set after training task i, at 1 and at 5, over all classes and with only
task j's classes allowed ("masked"). Before task i is trained, R[i-1][i] (zero-shot) and b[i] (the starting network)
are evaluated for FWT: over all classes they are zero by construction when a task brings new classes, hence masked, too.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from drb.data.datasets import Source
from drb.data.scenarios.task import Task
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.evaluation import Accuracy, evaluate
from drb.training.metrics import AccuracyMatrix
from drb.training.models import Network

_MATRICES = ("top1", "top5", "masked", "validation")


class Scores:
    """Evaluates, and keeps what came out. Every evaluating method is collective."""

    def __init__(self, preprocess: Preprocess, world: World, *, batch_size: int, task_aware: bool = False) -> None:
        """
        Args:
            batch_size: rows at a time on each rank.
            task_aware: the task is known at test time, so the accuracy that counts (`top1`) is the masked one.
        """
        self._preprocess = preprocess
        self._world = world
        self._batch_size = batch_size
        self._task_aware = task_aware
        self._seen: list[Task] = []
        self.top1 = AccuracyMatrix()
        self.top5 = AccuracyMatrix()
        self.masked = AccuracyMatrix()
        self.validation = AccuracyMatrix()
        self.losses: list[list[float | None]] = []

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self._seen]

    def skip(self, task: Task) -> None:
        """A task that was trained and evaluated before this run was resumed."""
        self._seen.append(task)

    def before(self, task: Task, network: Network, starting_network: Network) -> None:
        """b[i] and, but for the first task, the zero-shot R[i-1][i]. Both networks' heads have already grown."""
        home = next(starting_network.parameters()).device
        starting = self._evaluate(starting_network.to(self._world.device), task, task.test)
        starting_network.to(home)
        self.top1.baseline(task.index, self._top1(starting))
        self.masked.baseline(task.index, starting.masked_top1)
        if task.index > 0:
            self._add(task.index - 1, task.index, self._evaluate(network, task, task.test))

    def after(self, task: Task, network: Network) -> None:
        """R[i][j] for every task j seen so far, this one included."""
        self._seen.append(task)
        losses: list[float | None] = []
        for seen in self._seen:
            accuracy = self._evaluate(network, seen, seen.test)
            self._add(task.index, seen.index, accuracy)
            losses.append(accuracy.loss if math.isfinite(accuracy.loss) else None)
            if seen.validation is not None:
                held_out = self._evaluate(network, seen, seen.validation)
                self.validation.add(task.index, seen.index, self._top1(held_out))
        self.losses.append(losses)

    def latest(self) -> dict[str, float]:
        """The numbers of the last evaluation, named as a tracker shows them."""
        last = len(self._seen) - 1
        top1, top5, masked = (matrix.rows()[last] for matrix in (self.top1, self.top5, self.masked))
        values: dict[str, float | None] = {"accuracy/mean": self.top1.mean_after(last)}
        for task in self._seen:
            values[f"accuracy/task_{task.index}"] = top1[task.index]
            values[f"top5/task_{task.index}"] = top5[task.index]
            values[f"masked/task_{task.index}"] = masked[task.index]
            values[f"loss/task_{task.index}"] = self.losses[last][task.index]
        if self._seen[last].validation is not None:
            values["validation/mean"] = self.validation.mean_after(last)
        values |= {"bwt": self.top1.bwt(), "fwt": self.top1.fwt(), "forgetting": self.top1.forgetting()}
        return {name: value for name, value in values.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """The entries of summary.json that come from evaluation; fractions, None where undefined."""
        summary: dict[str, Any] = {
            "accuracy_matrix": self.top1.rows(),
            "baselines": self.top1.baselines(),
            "acc": self.top1.acc(),
            "bwt": self.top1.bwt(),
            "fwt": self.top1.fwt(),
            "forgetting": self.top1.forgetting(),
            "top5": self.top5.acc(),
            "top5_matrix": self.top5.rows(),
            "masked_matrix": self.masked.rows(),
            "acc_masked": self.masked.acc(),
            "fwt_masked": self.masked.fwt(),
            "loss_matrix": self.losses,
            "task_names": self.task_names,
        }
        if self.validation.num_tasks:
            summary["validation_matrix"] = self.validation.rows()
        return summary

    def state_dict(self) -> dict[str, Any]:
        """The numbers; the tasks come from the stream again (`skip`)."""
        return {name: getattr(self, name).state_dict() for name in _MATRICES} | {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _MATRICES:
            getattr(self, name).load_state_dict(state[name])
        self.losses = state["losses"]

    def _evaluate(self, network: Network, task: Task, source: Source) -> Accuracy:
        return evaluate(
            network,
            source,
            preprocess=self._preprocess,
            device=self._world.device,
            batch_size=self._batch_size,
            world=self._world,
            classes=task.classes,
        )

    def _top1(self, accuracy: Accuracy) -> float:
        return accuracy.masked_top1 if self._task_aware else accuracy.top1

    def _add(self, after: int, on: int, accuracy: Accuracy) -> None:
        self.top1.add(after, on, self._top1(accuracy))
        self.top5.add(after, on, accuracy.top5)
        self.masked.add(after, on, accuracy.masked_top1)


if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

_ALLOWED_DUPLICATES = 0.01


def refuse_duplicates(share: float, task_index: int) -> None:
    """Raises:
    ValueError: more than 1 % of all exemplars are stored more than once.
    """
    if share > _ALLOWED_DUPLICATES:
        raise ValueError(
            f"{share:.1%} of all exemplars are stored more than once after task {task_index}, at most "
            f"{_ALLOWED_DUPLICATES:.0%} is allowed: give every sample id one owner (drb.OwnerSampler) "
            "or set rehearsal.allow_duplicates=true"
        )


def total_counts(rehearsal: Rehearsal, world: World) -> dict[str, int]:
    """Exemplars of each stratum on all ranks together, keys as JSON has them. Collective."""
    per_rank: list[Any] = [rehearsal.counts()]
    if world.world_size > 1:
        own, per_rank = per_rank[0], [None] * world.world_size
        dist.all_gather_object(per_rank, own)
    counts: Counter[int] = sum(map(Counter, per_rank), Counter())
    return {str(stratum): counts[stratum] for stratum in sorted(counts)}
