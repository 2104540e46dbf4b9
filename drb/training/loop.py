"""Trains a network on a stream of tasks, on every rank of a run.

    loader -> rehearsal.extend -> device -> augment -> forward, loss -> backward (DDP) -> method's changes -> optimizer

A method (a strategy and its terms) takes part by the hooks of `drb.training.method.hooks`; an objective says what
outputs of the network mean. `drb.training.phases` has the steps inside a task. The gradient of a step is that of a
mean over the rows of every rank and every accumulated batch. The loader knows every rank's rows, and all ranks get the
same number of exemplars, so the rows of a step are known without a message. Only if the number of exemplars changes
while batches are accumulated are they not what was expected at the first of them; then the gradients are rescaled once,
before the optimizer's step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from drb.checkpoint import NoCheckpoints, Saver
from drb.data.datasets import Concat, Source
from drb.data.scenarios.task import Scenario, Task
from drb.distributed.waiting import PatientBarrier
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.batches import Batches
from drb.training.components import Components
from drb.training.evaluation.evaluate import eval_mode
from drb.training.evaluation.scores import Scores
from drb.training.finite import FiniteCheck
from drb.training.learner import Learner
from drb.training.loaders import loader_of
from drb.training.method.method import Method
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.models import Network
from drb.training.networks import Networks
from drb.training.objectives import OBJECTIVES, Objective
from drb.training.optimizers import OptimizerBuilder
from drb.training.phases import PhaseTrainer
from drb.training.reporting.monitor import Monitor
from drb.training.reporting.reporter import Reporter
from drb.training.schedules import Schedule
from drb.training.settings import TrainingSettings
from drb.training.state.position import Position
from drb.training.state.progress import Progress
from drb.training.state.randomness import Randomness
from drb.training.state.run_state import RunState
from drb.training.stored_rows import Loader
from drb.training.strategies import Strategy
from drb.training.terms import Term

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal


class Trainer:
    """Runs one method over one stream; every rank makes one, with the same arguments.

    progress: how far the run has come. scores: what was evaluated. finite: what was not finite.
    """

    def __init__(
        self,
        scenario: Scenario,
        make_network: Callable[[int, int], Network],
        preprocess: Preprocess,
        strategy: Strategy,
        *,
        terms: Sequence[Term] = (),
        objective: Objective | None = None,
        world: World,
        training: TrainingSettings,
        optimizer: OptimizerBuilder,
        schedule: Schedule,
        rehearsal: Rehearsal | None = None,
        num_exemplars: int | None = None,
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
            make_network: (number of outputs, task index) -> a freshly initialised network, the same on every rank.
            terms: what is added to the strategy.
            objective: what the outputs mean; classification of `image` by `label` if None.
            rehearsal: extends every minibatch, for methods that need exemplars.
            num_exemplars: how many of a draw's candidates to train on, for methods that choose among candidates.
            saver: told after every step and task, saves what `state_dict` gives when it is due.
            on_step: called after every optimisation step; None costs nothing.
            num_outputs: size of the head from the start; None lets it grow as classes appear.
            allow_duplicates: go on if more than 1 % of all exemplars are stored more than once.
            timeout_s: how long a rank may go without a heartbeat while the others wait for rank 0 between tasks.
        Raises:
            ValueError: a strategy, terms and an objective that cannot be combined.
        """
        method, objective = Method(strategy, terms), objective or OBJECTIVES.build("classification")
        method.check_objective(objective)
        rehearsal = rehearsal if method.draws.total else None
        self.progress = Progress(world, rehearsal)
        self.finite = FiniteCheck(training.on_nonfinite, world, loss_scaling=training.precision == "fp16")
        self.scores = Scores(objective, method, preprocess, world, training)
        self._components = components = Components(
            method,
            objective,
            preprocess,
            rehearsal,
            world,
            training,
            optimizer,
            schedule,
            seed,
            progress=self.progress,
            finite=self.finite,
            scores=self.scores,
            networks=Networks(make_network, self._learn, method.adapt, seed),
            randomness=Randomness(seed, world),
        )
        self._scenario = scenario
        self._world = world
        self._num_outputs = num_outputs
        self._saver = saver or NoCheckpoints()
        self._state_to_save = partial(self.state_dict, lazy=True)
        self._batches = Batches(components, num_exemplars)
        self._reporter = Reporter(components, monitor or Monitor(), allow_duplicates=allow_duplicates)
        self._phases = PhaseTrainer(
            components, self._batches, self._reporter, self._saver, on_step, self._state_to_save
        )
        self._state = RunState(components)
        self._past: list[Source] = []
        self._task_classes: list[tuple[int, ...]] = []
        self._activity = "set-up"
        self._barrier = PatientBarrier(world.world_size, timeout_s)

    @property
    def network(self) -> Network:
        """The network as trained so far."""
        return self._components.networks.learner.network

    @property
    def evaluated_network(self) -> torch.nn.Module:
        """The network whose scores count: that trained so far, or what the method makes of it."""
        return self._components.method.evaluated_network(self.network)

    @property
    def steps(self) -> int:
        """Optimisation steps so far."""
        return self.progress.steps

    @property
    def rows_per_step(self) -> int:
        """Rows of the stream in a full step, on all ranks together."""
        training, world_size = self._components.training, self._world.world_size
        return training.rows_per_rank(world_size) * world_size * training.accumulate

    @property
    def position(self) -> Position:
        """The next minibatch to train on."""
        return self.progress.position

    @property
    def whereabouts(self) -> str:
        """What this rank is doing, for messages about failures."""
        return f"task {self.position.task + 1}, step {self.steps}, {self._activity}"

    def run(self) -> None:
        """Train on each task of the stream in turn, and evaluate every seen task after each. Collective.

        After `load_state_dict` the stream is gone through again up to where the run was.
        """
        for task in self._scenario:
            if task.index < self.position.task:
                self._skip_task(task)
                continue
            self._state.settle_ranks([*self._past, task.train], self._reporter.monitor.say)
            learner = self._begin_task(task)
            self._train_task(task, learner)
            self._end_task(task, learner)
        self._state.settle_ranks(self._past, self._reporter.monitor.say)
        self._saver.visit_end(self.steps, self._state_to_save)

    # -- state

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """All that the rest of the run depends on, between two steps; waits for the rehearsal's round in flight.

        `trainer`, `model` and `optimizer` are alike on all ranks; `rank` is this rank's own. Tensors are not copied.
        Collective.

        lazy: nor are the buffer's rows, see `Rehearsal.state_dict`.
        """
        self._reporter.nonfinite()  # a step that must not be is never saved
        return self._state.state_dict(lazy=lazy)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of the same configuration; before `run`. Collective.

        state: with this rank's own part as `rank`; or with those of all ranks there were, another number, as `ranks`:
        this rank's part is then made of them, and `run` says what has changed.
        """
        self._state.load_state_dict(state)

    # -- a task

    def _skip_task(self, task: Task) -> None:
        """A task that was over before this run was resumed."""
        self.scores.skip(task)
        self._past.append(task.train)
        self._task_classes.append(task.classes)

    def _begin_task(self, task: Task) -> Learner:
        components, is_new = self._components, not self.position.begun
        self._past.append(task.train)
        self._task_classes.append(task.classes)
        if is_new:
            components.networks.begin_task(self._num_outputs or self._outputs_needed(task), task.index)
            components.method.grow(components.networks.learner.network)
        learner = self._batches.learner = components.networks.learner
        num_outputs, task_aware, device = learner.network.num_classes, self._scenario.task_aware, self._world.device
        components.objective.check_source(task.train, num_outputs, str(task))
        components.objective.begin_task(self._task_classes, num_outputs, task_aware=task_aware, device=device)
        if is_new:
            self._prepare(task, learner)
        return learner

    def _prepare(self, task: Task, learner: Learner) -> None:
        """What FWT needs, fresh weights if the method wants them, and what the method does at a task's begin."""
        self._activity = "evaluation before the task"
        networks, method = self._components.networks, self._components.method
        self.scores.before(task, learner.network, networks.starting)
        if method.needs.fresh_weights and task.index > 0:
            networks.renew(task.index)
        method.begin_task(CurrentTask(task, learner.network))
        self._components.begin_rehearsed_task(task.index)
        self.progress.position = Position(task.index, begun=True)

    def _train_task(self, task: Task, learner: Learner) -> None:
        """Its phases, of which there is one unless the method says otherwise."""
        source = Concat(self._past) if self._components.method.needs.cumulative else task.train
        self._phases.targets_are_known = source.in_memory
        loader = self._loader(source, task)
        self._saver.begin_task(self.steps)
        if self.position.is_fresh:
            self.progress.begin_interval(self._phases.updates)
        with self.progress.clock:
            while (done := self.position.phase) is not None:
                phase = self._components.method.next_phase(task.index, done, self._components.training.epochs)
                if phase is not None:
                    self._activity = "training (gradients)"
                    self._phases.train(task, learner, loader, phase)
                self.position.end_phase(is_last=phase is None)
        self._reporter.nonfinite()
        self._saver.visit_boundary(self.steps, self._state_to_save, evaluated=False)
        self._activity = "the end of the task"
        learner.end_phases()
        learner.average_statistics()
        self._finish(task, learner, loader)

    def _finish(self, task: Task, learner: Learner, loader: Loader) -> None:
        """What the method does at a task's end, with the task's data."""
        with eval_mode(learner.network):
            samples, say = partial(loader.epoch, 0), self._reporter.monitor.say
            finished = FinishedTask(task, learner.network, self._components, samples, say)
            self._components.method.end_task(finished)

    def _loader(self, source: Source, task: Task) -> Loader:
        return loader_of(source, task, self._components)

    def _end_task(self, task: Task, learner: Learner) -> None:
        self._activity = "evaluation after the task"
        self.scores.after(task, learner.network)
        self._reporter.end_task(task, self._saver.seconds)
        self._activity = "waiting for rank 0"
        self._barrier.wait(self.whereabouts)  # rank 0 logs and draws: its peers wait here, not with a short timeout
        self.progress.position = Position(task.index + 1)
        self._saver.visit_boundary(self.steps, self._state_to_save, evaluated=True)

    def _outputs_needed(self, task: Task) -> int:
        """The most that any rank's part of the task needs; collective."""
        needed = torch.tensor(self._components.objective.num_outputs(task) or 1, device=self._world.device)
        if self._world.world_size > 1:
            dist.all_reduce(needed, op=dist.ReduceOp.MAX)
        return int(needed)

    def _learn(self, network: Network) -> Learner:
        return Learner(
            network,
            self._components.optimizer,
            self._world,
            precision=self._components.training.precision,
            channels_last=self._components.training.channels_last,
            clip_norm=self._components.training.clip_norm,
            sync_bn=self._components.training.sync_bn,
            finite=self.finite,
        )
