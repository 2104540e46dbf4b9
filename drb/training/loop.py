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

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from drb.checkpoint import NoCheckpoints, Saver
from drb.data.datasets import Concat, Source
from drb.data.epochs import Deal
from drb.data.loader import TaskLoader
from drb.data.scenarios.task import Scenario, Task
from drb.distributed.waiting import PatientBarrier
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.breakdown import Breakdown, Interval, Stopwatch
from drb.training.classes import Loss, check_labels, masked_loss, outputs_needed
from drb.training.finite import FiniteCheck
from drb.training.learner import Learner
from drb.training.models import Network
from drb.training.monitor import Monitor
from drb.training.networks import Networks
from drb.training.optim import OptimizerSettings, scaled_rate
from drb.training.position import Position
from drb.training.randomness import Randomness
from drb.training.resume import deal_exemplars, describe_change, loader_seed, own_part
from drb.training.schedule import ScheduleSettings, rate_factor
from drb.training.scores import Scores, refuse_duplicates, total_counts
from drb.training.settings import TrainingSettings
from drb.training.strategies import Strategy
from drb.types import Minibatch

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal


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
        saver: Saver | None = None,
        on_step: Callable[[], None] | None = None,
        num_outputs: int | None = None,
        allow_duplicates: bool = False,
        timeout_s: float = 600.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            make_network: (number of classes, task index) -> a freshly initialised network, the same on every rank.
            rehearsal: extends every minibatch, for strategies that use it.
            saver: told after every step and task, saves what `state_dict` gives when it is due.
            on_step: called after every optimisation step; None costs nothing.
            num_outputs: size of the head from the start; None lets it grow as classes appear.
            allow_duplicates: go on if more than 1 % of all exemplars are stored more than once.
            timeout_s: how long a rank may go without a heartbeat while the others wait for rank 0 between tasks.
        """
        self._scenario = scenario
        self._preprocess = preprocess
        self._strategy = strategy
        self._world = world
        self._training = training
        self._schedule = schedule
        self._rate = scaled_rate(optimizer, world.world_size)
        self._rehearsal = rehearsal if strategy.uses_rehearsal else None
        self._monitor = monitor or Monitor()
        self._saver = saver or NoCheckpoints()
        self._on_step = on_step
        self._num_outputs = num_outputs
        self._allow_duplicates = allow_duplicates
        self._seed = seed

        self.scores = Scores(preprocess, world, batch_size=training.eval_batch_size, task_aware=scenario.task_aware)
        self.clock = Stopwatch()
        self.breakdown = Breakdown(self.clock, self._rehearsal)
        self.history: list[dict[str, Any]] = []
        self.rows = 0  # of the stream, over all ranks; exemplars do not count
        self.steps = 0
        self.position = Position()
        self._epochs = 0
        self._saved_ranks: Sequence[Mapping[str, Any]] = ()  # of a run with another number of ranks
        self._past: list[Source] = []
        self._optimizer = optimizer
        self.finite = FiniteCheck(training.on_nonfinite, world, loss_scaling=training.precision == "fp16")
        self._networks = Networks(make_network, self._learn, seed)
        self._task_classes: list[tuple[int, ...]] = []
        self._loss: Loss = strategy.loss
        self._labels_are_known = True  # a source in memory gives the labels that it showed at the task's start
        self._randomness = Randomness(seed, world)
        self._state_to_save = partial(self.state_dict, lazy=True)
        self._loss_sum = torch.zeros((), device=world.device)
        self._interval = Interval()
        self._activity = "set-up"
        self._barrier = PatientBarrier(world.world_size, timeout_s)

    @property
    def network(self) -> Network:
        """The network as trained so far."""
        return self._networks.learner.network

    @property
    def whereabouts(self) -> str:
        """What this rank is doing, for messages about failures."""
        return f"task {self.position.task}, step {self.steps}, {self._activity}"

    def run(self) -> None:
        """Train on each task of the stream in turn, and evaluate every seen task after each. Collective.

        After `load_state_dict` the stream is gone through again up to where the run was.
        """
        for task in self._scenario:
            if task.index < self.position.task:
                self._skip_task(task)
                continue
            self._settle_ranks(task.train)
            learner = self._begin_task(task)
            self._train_task(task, learner)
            self._end_task(task, learner)
        self._settle_ranks()
        self._saver.finish()

    # -- a task

    def _skip_task(self, task: Task) -> None:
        """A task that was over before this run was resumed."""
        self.scores.skip(task)
        self._past.append(task.train)
        self._task_classes.append(task.classes)

    def _begin_task(self, task: Task) -> Learner:
        if not self.position.begun:
            self._prepare(task)
        learner = self._networks.learner
        self._past.append(task.train)
        self._task_classes.append(task.classes)
        num_classes, device = learner.network.num_classes, self._world.device
        check_labels(task.train.labels, task.train.sample_ids, num_classes, f"task {task.index} ({task.name})")
        if self._scenario.task_aware:
            self._loss = masked_loss(self._strategy.loss, self._task_classes, num_classes, device)
        if not self.position.begun:
            self._strategy.begin_task(task.index, learner.network)
            self.position = Position(task.index, begun=True)
        return learner

    def _prepare(self, task: Task) -> None:
        """A head for the task's classes, what FWT needs, fresh weights if the strategy wants them."""
        self._activity = "evaluation before the task"
        networks = self._networks
        networks.grow(self._num_outputs or outputs_needed(task, self._world), task.index)
        self.scores.before(task, networks.learner.network, networks.starting)
        if self._strategy.fresh_weights and task.index > 0:
            networks.renew(task.index)

    def _train_task(self, task: Task, learner: Learner) -> None:
        source = Concat(self._past) if self._strategy.cumulative else task.train
        self._labels_are_known = source.in_memory
        loader = TaskLoader(
            source,
            self._training.rows_per_rank(self._world.world_size),
            rank=self._world.rank,
            world_size=self._world.world_size,
            seed=loader_seed(self._seed, task.index),
        )
        position, epochs = self.position, self._training.epochs
        deal = loader.deal(position.epoch, position.earlier)
        done = position.epoch * loader.num_batches + sum(part.minibatches for part in position.earlier)
        left = deal.num_batches + (epochs - 1 - position.epoch) * loader.num_batches
        self._monitor.begin_task(task.index, task.name, done + left)
        self._monitor.advance(done + position.minibatch)
        self._saver.begin_task(self.steps)
        learner.network.train()
        if position.is_fresh:
            self._loss_sum.zero_()
            self._interval = Interval(self._updates, self.rows)
            if self._schedule.span == "task":
                self._epochs = 0
        self._activity = "training (gradients)"
        with self.clock:
            while position.epoch < epochs:
                deal = loader.deal(position.epoch, position.earlier)
                minibatches = loader.epoch(position.epoch, position.minibatch, position.earlier)
                self._train_epoch(learner, self.breakdown.loader.over(minibatches), deal)
                position.end_epoch()
                self._epochs += 1
        self._report_nonfinite()
        self._saver.visit_boundary(self.steps, self._state_to_save, evaluated=False)
        self._strategy.end_task(task.index, learner.network)

    def _train_epoch(self, learner: Learner, minibatches: Iterator[Minibatch], deal: Deal) -> None:
        """The epoch from the present position on."""
        size, every, position = self._training.accumulate, self._training.log_every, self.position
        advance, saver, is_constant = self._monitor.advance, self._saver, self._schedule.is_constant
        rows_of_step, seen = deal.rows().tolist(), deal.share_seen
        for start in range(position.minibatch, len(rows_of_step), size):
            rows_A = rows_of_step[start : start + size]
            if not is_constant:
                learner.set_rate(self._rate * self._rate_factor(seen + (1 - seen) * start / len(rows_of_step)))
            self._optimisation_step(learner, minibatches, rows_A)
            self.steps += 1
            self.rows += sum(rows_A)
            position.minibatch = start + len(rows_A)
            advance(len(rows_A))
            if self._on_step is not None:
                self._on_step()
            if self.steps % every == 0:
                self._log_interval(learner)
            if self.steps >= saver.next_step:
                saver.visit(self.steps, self._state_to_save)

    def _optimisation_step(self, learner: Learner, minibatches: Iterator[Minibatch], rows_A: list[int]) -> None:
        """rows_A: rows of the stream on all ranks together, in each of the batches to accumulate."""
        world_size, last = self._world.world_size, len(rows_A) - 1
        expected, actual = 0, sum(rows_A)
        loss: Tensor | None = None
        for index, minibatch in enumerate(islice(minibatches, len(rows_A))):
            batch = self._extend(minibatch)
            num_rows = len(batch["label"])
            exemplars = world_size * (num_rows - len(minibatch["label"]))
            actual += exemplars
            if index == 0:
                expected = actual + last * exemplars
            images = self._preprocess.train(batch["image"], self._randomness.augmentation)
            if self._training.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            weight = num_rows * world_size / expected
            part = learner.backward(images, batch, self._loss, weight, more=index < last)
            loss = part if loss is None else loss + part
        if learner.step(rescale=expected / actual) and loss is not None:
            self._loss_sum += loss

    def _extend(self, minibatch: Minibatch) -> Minibatch:
        if not self._labels_are_known:
            labels, sample_ids = minibatch["label"].numpy(), minibatch["sample_id"].numpy()
            num_classes = self._networks.learner.network.num_classes
            check_labels(labels, sample_ids, num_classes, f"the minibatch of step {self.steps + 1}")
        if self._rehearsal is None:
            return self._to_device(minibatch)
        return self._to_device(self._rehearsal.extend(minibatch))

    def _to_device(self, batch: Minibatch) -> Minibatch:
        """Copies may still be queued when this returns: `extend` waits before it writes to their memory again."""
        if self._world.device.type == "cpu":
            return batch
        start = time.perf_counter()
        moved = {name: field.to(self._world.device, non_blocking=True) for name, field in batch.items()}
        self.breakdown.device_seconds += time.perf_counter() - start
        return moved

    def _end_task(self, task: Task, learner: Learner) -> None:
        self._activity = "evaluation after the task"
        learner.average_statistics()
        self.scores.after(task, learner.network)
        metrics = self.scores.latest()
        if self._rehearsal is not None:
            metrics["rehearsal/duplicate_share"] = self._rehearsal.duplicate_share()
            if not self._allow_duplicates:
                refuse_duplicates(metrics["rehearsal/duplicate_share"], task.index)
        metrics["time/train_seconds"] = self.clock.seconds
        metrics["time/checkpoint_seconds"] = self._saver.seconds  # that training has waited
        self.history.append(self._history_entry(task))
        self._monitor.end_task(task.index, task.name, metrics, self.steps)
        self._activity = "waiting for rank 0"
        self._wait_for_main()  # before anything that has a timeout
        self.position = Position(task.index + 1)
        self._saver.visit_boundary(self.steps, self._state_to_save, evaluated=True)

    def _log_interval(self, learner: Learner) -> None:
        """One point: the mean loss over the interval and all ranks, the rate, the throughput, the rehearsal."""
        self._report_nonfinite()
        if self._world.world_size > 1:
            dist.all_reduce(self._loss_sum)
        seconds, steps, rows = self._interval.next(self._updates, self.rows)
        loss = self._loss_sum.item()
        metrics = {
            "train/loss": loss / (steps * self._world.world_size) if steps else math.nan,
            "train/learning_rate": learner.optimizer.param_groups[0]["lr"],
            "train/samples_per_second": rows / seconds,
            "train/nonfinite_steps": self.finite.steps,
            **self.breakdown.interval(self.steps),
        }
        self._loss_sum.zero_()
        self._monitor.log_interval(metrics, self._rehearsal, self.steps)

    @property
    def _updates(self) -> int:
        """Optimisation steps that were not skipped."""
        return self.steps - self.finite.skipped

    def _report_nonfinite(self) -> None:
        """Say so if steps were not finite; raises NonFiniteError if the run is to stop then."""
        if (line := self.finite.look()) is not None:
            self._monitor.say(line)

    def _history_entry(self, task: Task) -> dict[str, Any]:
        """Where the run is at the end of a task, with the exemplars of each stratum on all ranks together."""
        entry: dict[str, Any] = {
            "task": task.index,
            "seconds": self.clock.seconds,
            "acc": self.scores.top1.mean_after(task.index),
        }
        if self._rehearsal is not None:
            entry["counts"] = total_counts(self._rehearsal, self._world)
        return entry

    def _learn(self, network: Network) -> Learner:
        return Learner(
            network,
            self._optimizer,
            self._world,
            precision=self._training.precision,
            channels_last=self._training.channels_last,
            clip_norm=self._training.clip_norm,
            sync_bn=self._training.sync_bn,
            finite=self.finite,
        )

    def _rate_factor(self, epoch_share: float) -> float:
        return rate_factor(self._schedule, self._epochs + epoch_share, self._training.epochs)

    def _wait_for_main(self) -> None:
        """Rank 0 logs and draws between tasks: its peers wait here, not inside a collective with a short timeout."""
        self._barrier.wait(self.whereabouts)

    # -- state

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """All that the rest of the run depends on, between two steps; waits for the rehearsal's round in flight.

        `trainer`, `model` and `optimizer` are alike on all ranks; `rank` is this rank's own. Tensors are not copied.
        lazy: nor are the buffer's rows, see `Rehearsal.state_dict`.
        """
        self._report_nonfinite()  # a step that must not be is never saved
        networks = self._networks
        return {
            "trainer": {
                "position": asdict(self.position),
                "steps": self.steps,
                "rows": self.rows,
                "epochs": self._epochs,
                "networks": networks.shape(),
                "history": self.history,
                "scores": self.scores.state_dict(),
                "clock": self.clock.state_dict(),
                "breakdown": self.breakdown.state_dict(),
                "interval": self._interval.state_dict(),
                "finite": self.finite.state_dict(),
            },
            "model": networks.weights(),
            "optimizer": networks.learner.state_dict(),
            "rank": {
                "statistics": networks.learner.statistics(),
                "loss_sum": self._loss_sum,
                **self._randomness.state_dict(),
                "rehearsal": None if self._rehearsal is None else self._rehearsal.state_dict(lazy=lazy),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of the same configuration; before `run`. Collective.

        state: with this rank's own part as `rank`; or with those of all ranks there were, another number, as `ranks`:
        this rank's part is then made of them, and `run` says what has changed.
        """
        shared = state["trainer"]
        self.position = Position(**shared["position"])
        self.steps, self.rows, self._epochs = shared["steps"], shared["rows"], shared["epochs"]
        self.history = shared["history"]
        self.scores.load_state_dict(shared["scores"])
        self.clock.load_state_dict(shared["clock"])
        if "breakdown" in shared:  # not saved by the first versions
            self.breakdown.load_state_dict(shared["breakdown"])
        self._interval.load_state_dict(shared["interval"])
        if "ranks" in state:
            self._saved_ranks = state["ranks"]
            before = len(self._saved_ranks)
            self.position.change_ranks(before, self._training.rows_per_rank(before))
            own = own_part(self._saved_ranks, self._world.rank)
        else:
            own = state["rank"]
        self.finite.load_state_dict(shared["finite"])
        self._networks.load_state_dict(shared["networks"], state["model"], state["optimizer"], own["statistics"])
        self._loss_sum.copy_(own["loss_sum"])
        if self._rehearsal is not None and "rehearsal" in own:
            self._rehearsal.load_state_dict(own["rehearsal"])
        self._randomness.load_state_dict(own, self.steps)  # last: building networks may draw

    def _settle_ranks(self, *current: Source) -> None:
        """After a resume with another number of ranks, once the tasks so far are known: buffers to their owners."""
        states, self._saved_ranks = self._saved_ranks, ()
        if not states:
            return
        world = self._world
        exemplars = deal_exemplars(self._rehearsal, states, [*self._past, *current], world, self._seed)
        line = describe_change(len(states), world.world_size, self._training, self._optimizer, exemplars)
        self._monitor.say(line)
