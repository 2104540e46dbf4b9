"""Trains a network on a stream of tasks, on every rank of a run.

    loader -> rehearsal.extend -> device -> augment -> forward, loss -> backward (DDP) -> optimizer

Loss weighting. The gradient of a step is that of the mean loss over *all* rows, of every rank and every accumulated
batch. DDP averages over ranks, so rank k multiplies the mean loss of its n_k rows by n_k W / N, N the rows of all ranks
in the whole step. N is known without a message: the loader knows every rank's rows, and all ranks get the same number
of exemplars. Only if that number changes while batches are accumulated is N not what was expected at the first of
them; then the gradients are rescaled once, before the optimizer's step.

Letters: W ranks, A accumulated batches of one optimisation step.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from drb.augment import Preprocess
from drb.datasets import Concat, Source
from drb.loader import TaskLoader
from drb.models import Network
from drb.scenarios.task import Scenario, Task
from drb.seeding import derive_seed
from drb.strategies import Strategy
from drb.trainer.feed import DeviceFeed
from drb.trainer.learner import Learner
from drb.trainer.monitor import Monitor
from drb.trainer.optim import OptimizerSettings, scaled_rate
from drb.trainer.schedule import ScheduleSettings, rate_factor
from drb.trainer.scores import Scores
from drb.trainer.settings import TrainingSettings
from drb.trainer.stopwatch import Interval, Stopwatch
from drb.types import Minibatch
from drb.world import World

if TYPE_CHECKING:
    from drb.rehearsal import Rehearsal

_WAIT_FOR_MAIN = timedelta(days=7)  # rank 0 may take its time between tasks; if it dies its peers notice at once
_ALLOWED_DUPLICATES = 0.01


class Trainer:
    """Runs one strategy over one stream; every rank makes one, with the same arguments."""

    def __init__(
        self,
        scenario: Scenario,
        make_network: Callable[[int, int], Network],
        preprocess: Preprocess,
        strategy: Strategy,
        *,
        world: World,
        training: TrainingSettings,
        optimizer: OptimizerSettings,
        schedule: ScheduleSettings,
        rehearsal: Rehearsal | None = None,
        monitor: Monitor | None = None,
        num_outputs: int | None = None,
        allow_duplicates: bool = False,
        seed: int = 0,
    ) -> None:
        """
        Args:
            make_network: (number of classes, task index) -> a freshly initialised network, the same on every rank.
            rehearsal: extends every minibatch, for strategies that use it.
            num_outputs: size of the head from the start; None lets it grow as classes appear.
            allow_duplicates: go on if more than 1 % of all exemplars are stored more than once.
        """
        self._scenario = scenario
        self._make_network = make_network
        self._preprocess = preprocess
        self._strategy = strategy
        self._world = world
        self._training = training
        self._schedule = schedule
        self._rate = scaled_rate(optimizer, world.world_size)
        self._rehearsal = rehearsal if strategy.uses_rehearsal else None
        self._monitor = monitor or Monitor()
        self._num_outputs = num_outputs
        self._allow_duplicates = allow_duplicates
        self._seed = seed

        self.scores = Scores(preprocess, world, batch_size=training.eval_batch_size, task_aware=scenario.task_aware)
        self.clock = Stopwatch()
        self.history: list[dict[str, Any]] = []
        self.rows = 0  # of the stream, over all ranks; exemplars do not count
        self.steps = 0
        self._epochs = 0
        self._past: list[Source] = []
        self._optimizer = optimizer
        self._learner: Learner | None = None
        self._starting_network: Network | None = None
        self._task_classes: list[tuple[int, ...]] = []
        self._loss: Callable[[Tensor, Minibatch], Tensor] = strategy.loss
        self._feed = DeviceFeed(world.device)
        self._generator = torch.Generator(world.device)
        self._generator.manual_seed(derive_seed(seed, "augment", world.rank))
        self._loss_sum = torch.zeros((), device=world.device)
        self._waiting_room: Any = (
            dist.new_group(backend="gloo", timeout=_WAIT_FOR_MAIN) if world.world_size > 1 else None
        )

    @property
    def network(self) -> Network:
        """The network as trained so far."""
        if self._learner is None:
            raise ValueError("there is no network before the first task: its size depends on the task's classes")
        return self._learner.network

    def run(self) -> None:
        """Train on each task of the stream in turn, and evaluate every seen task after each. Collective."""
        for task in self._scenario:
            learner = self._begin_task(task)
            self._train_task(task, learner)
            self._end_task(task, learner)

    def _begin_task(self, task: Task) -> Learner:
        """A head for the task's classes, fresh weights if the strategy wants them, and what FWT needs."""
        num_classes = self._num_outputs or self._agree_on_classes(task)
        learner = self._learner
        if learner is None or self._starting_network is None:
            network = self._make_network(num_classes, task.index)
            self._starting_network = copy.deepcopy(network)
            self._learner = learner = self._learn(network)
        self._starting_network.grow(num_classes, self._growth_seed(task))
        learner.grow(num_classes, self._growth_seed(task))
        self.scores.before(task, learner.network, self._starting_network)
        if self._strategy.fresh_weights and task.index > 0:
            learner.restart(self._make_network(learner.network.num_classes, task.index))
        if self._scenario.task_aware:
            self._task_classes.append(task.classes)
            self._loss = self._masked_loss(learner.network.num_classes)
        self._strategy.begin_task(task.index, learner.network)
        return learner

    def _train_task(self, task: Task, learner: Learner) -> None:
        self._past.append(task.train)
        source = Concat(self._past) if self._strategy.cumulative else task.train
        loader = TaskLoader(
            source,
            self._training.rows_per_rank(self._world.world_size),
            rank=self._world.rank,
            world_size=self._world.world_size,
            seed=derive_seed(self._seed, "loader", task.index),
        )
        rows_of_step = [int(loader.rows_per_rank(step).sum()) for step in range(loader.num_batches)]
        if self._schedule.span == "task":
            self._epochs = 0
        self._monitor.begin_task(task.index, task.name, self._training.epochs * loader.num_batches)
        learner.network.train()
        self._loss_sum.zero_()
        interval = Interval(self.steps, self.rows)
        with self.clock:
            for epoch in range(self._training.epochs):
                self._train_epoch(learner, loader.epoch(epoch), rows_of_step, interval)
                self._epochs += 1
        self._strategy.end_task(task.index, learner.network)

    def _train_epoch(
        self, learner: Learner, minibatches: Iterator[Minibatch], rows_of_step: list[int], interval: Interval
    ) -> None:
        size, every = self._training.accumulate, self._training.log_every
        advance, is_constant = self._monitor.advance, self._schedule.is_constant
        for start in range(0, len(rows_of_step), size):
            rows_A = rows_of_step[start : start + size]
            if not is_constant:
                learner.set_rate(self._rate * self._rate_factor(start / len(rows_of_step)))
            self._optimisation_step(learner, minibatches, rows_A)
            self.steps += 1
            self.rows += sum(rows_A)
            advance(len(rows_A))
            if self.steps % every == 0:
                self._log_interval(learner, interval)

    def _optimisation_step(self, learner: Learner, minibatches: Iterator[Minibatch], rows_A: list[int]) -> None:
        """rows_A: rows of the stream on all ranks together, in each of the batches to accumulate."""
        world_size, last = self._world.world_size, len(rows_A) - 1
        expected, actual = 0, sum(rows_A)
        for index, minibatch in enumerate(islice(minibatches, len(rows_A))):
            batch = self._extend(minibatch)
            num_rows = len(batch["label"])
            exemplars = world_size * (num_rows - len(minibatch["label"]))
            actual += exemplars
            if index == 0:
                expected = actual + last * exemplars
            images = self._preprocess.train(batch["image"], self._generator)
            if self._training.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            weight = num_rows * world_size / expected
            self._loss_sum += learner.backward(images, batch, self._loss, weight, more=index < last)
        learner.step(rescale=expected / actual)

    def _extend(self, minibatch: Minibatch) -> Minibatch:
        if self._rehearsal is None:
            return self._feed(minibatch)
        self._feed.ready()
        return self._feed(self._rehearsal.extend(minibatch))

    def _end_task(self, task: Task, learner: Learner) -> None:
        learner.average_statistics()
        self.scores.after(task, learner.network)
        metrics = self.scores.latest()
        if self._rehearsal is not None:
            metrics["rehearsal/duplicate_share"] = self._check_duplicates(self._rehearsal, task)
        metrics["time/train_seconds"] = self.clock.seconds
        self.history.append(self._history_entry(task))
        self._monitor.end_task(task.index, task.name, metrics, self.steps)
        self._wait_for_main()

    def _log_interval(self, learner: Learner, interval: Interval) -> None:
        """One point: the mean loss over the interval and all ranks, the rate, the throughput, the rehearsal."""
        if self._world.world_size > 1:
            dist.all_reduce(self._loss_sum)
        seconds, steps, rows = interval.next(self.steps, self.rows)
        metrics = {
            "train/loss": self._loss_sum.item() / (steps * self._world.world_size),
            "train/learning_rate": learner.optimizer.param_groups[0]["lr"],
            "train/samples_per_second": rows / seconds,
        }
        self._loss_sum.zero_()
        self._monitor.log_interval(metrics, self._rehearsal, self.steps)

    def _check_duplicates(self, rehearsal: Rehearsal, task: Task) -> float:
        share = rehearsal.duplicate_share()
        if share > _ALLOWED_DUPLICATES and not self._allow_duplicates:
            raise ValueError(
                f"{share:.1%} of all exemplars are stored more than once after task {task.index}, at most "
                f"{_ALLOWED_DUPLICATES:.0%} is allowed: give every sample id one owner (drb.OwnerSampler) "
                "or set rehearsal.allow_duplicates=true"
            )
        return share

    def _history_entry(self, task: Task) -> dict[str, Any]:
        """Where the run is at the end of a task, with the exemplars of each stratum on all ranks together."""
        entry = {"task": task.index, "seconds": self.clock.seconds, "acc": self.scores.top1.mean_after(task.index)}
        if self._rehearsal is None:
            return entry
        per_rank: list[Any] = [self._rehearsal.counts()]
        if self._world.world_size > 1:
            own, per_rank = per_rank[0], [None] * self._world.world_size
            dist.all_gather_object(per_rank, own)
        counts: Counter[int] = sum(map(Counter, per_rank), Counter())
        return entry | {"counts": {str(stratum): counts[stratum] for stratum in sorted(counts)}}

    def _agree_on_classes(self, task: Task) -> int:
        """Outputs that the task needs: 1 + the largest label in it, on any rank."""
        sources = [task.train, task.test, *([task.validation] if task.validation is not None else [])]
        largest = max(int(source.labels.max(initial=0)) for source in sources)
        needed = torch.tensor(1 + max(largest, *task.classes), device=self._world.device)
        if self._world.world_size > 1:
            dist.all_reduce(needed, op=dist.ReduceOp.MAX)
        return int(needed)

    def _learn(self, network: Network) -> Learner:
        return Learner(
            network,
            self._optimizer,
            self._world,
            precision=self._training.precision,
            channels_last=self._training.channels_last,
            clip_norm=self._training.clip_norm,
            sync_bn=self._training.sync_bn,
        )

    def _masked_loss(self, num_classes: int) -> Callable[[Tensor, Minibatch], Tensor]:
        """The strategy's loss with each row's logits at -inf outside its own task's classes."""
        others = torch.ones(len(self._task_classes), num_classes, dtype=torch.bool)
        for index, classes in enumerate(self._task_classes):
            others[index, list(classes)] = False
        others = others.to(self._world.device)

        def loss(logits: Tensor, batch: Minibatch) -> Tensor:
            return self._strategy.loss(logits.masked_fill(others[batch["task"]], -torch.inf), batch)

        return loss

    def _rate_factor(self, epoch_share: float) -> float:
        return rate_factor(self._schedule, self._epochs + epoch_share, self._training.epochs)

    def _growth_seed(self, task: Task) -> int:
        return derive_seed(self._seed, "head", task.index)

    def _wait_for_main(self) -> None:
        """Rank 0 logs and draws between tasks: its peers wait here, not inside a collective with a short timeout."""
        if self._waiting_room is not None:
            dist.barrier(self._waiting_room)
