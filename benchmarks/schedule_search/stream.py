"""A task-incremental stream on which schedules of replay are tried, with drb's own program.

After every task M samples of the tasks before are chosen by the schedule and replayed in every minibatch of the next
one. What was trained with a prefix of a schedule is kept as a checkpoint and trained once, however many schedules begin
with it; results are kept in a file, so that a search that was stopped goes on.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from drb.buffer.admission.closed import Closed
from drb.data.datasets import Dataset, load_dataset
from drb.data.scenarios import Task, build_scenario
from drb.distributed.world import detect_world
from drb.program.build import build_trainer
from drb.program.config import TrainConfig, compose_config
from drb.program.config.variants import build_variant
from drb.seeding import permutation
from drb.training import Monitor
from drb.types import Int64Array, Minibatch

Action = tuple[int, ...]
Prefix = tuple[Action, ...]

NUM_TASKS = 5
SETTINGS = (
    "dataset=fashion_mnist",
    "scenario=task_incremental",
    "scenario.classes_per_task=2",
    "scenario.validation=0.15",
    "model=mlp",
    "model.head=fixed",
    "strategy=er",
    "rehearsal.admission=benchmarks.schedule_search.stream.Given",
    "optimizer=adam",
    "optimizer.lr=0.001",
    "training.batch_size=128",
    "training.epochs=2",
    "augmentation.normalise=false",
    "checkpoint=none",
    "tracking=none",
    "ledger=false",
    "threads=1",
)


@dataclass(frozen=True)
class Outcome:
    """Accuracies of the tasks so far after the last of them, in [0, 1]: on held-out training and on test samples."""

    validation: tuple[float, ...]
    test: tuple[float, ...]

    @property
    def reward(self) -> float:
        return fmean(self.validation)

    @property
    def accuracy(self) -> float:
        return fmean(self.test)


class Given(Closed):
    """Store nothing that is offered: `Stream` chooses what is stored before each task."""

    is_closed = False  # it is not the method that chooses


class Stream:
    """One stream and what was trained on it.

    seed: of the network, the held-out samples and those that are replayed. folder: where checkpoints and results are
    kept. samples: that a transition chooses (M). draw: another one chooses other samples of the same tasks.
    trained: task trainings that this object has run, not counting those that were there.
    """

    def __init__(
        self, seed: int, folder: Path, *, samples: int = 10, draw: int = 0, settings: tuple[str, ...] = ()
    ) -> None:
        self.trained = 0
        self._samples = samples
        self._draw = draw
        self._folder = folder
        self._settings = (*settings, f"rehearsal.capacity={samples}", f"rehearsal.exemplars={samples}")
        self._seed = seed
        self._results = folder / "results.jsonl"
        self._known: dict[Prefix, Outcome] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self._results.exists():
            for line in map(json.loads, self._results.read_text().splitlines()):
                self._known[_as_prefix(line["prefix"])] = Outcome(tuple(line["validation"]), tuple(line["test"]))

    def after(self, prefix: Prefix) -> Outcome:
        """What the network can do after len(prefix) + 1 tasks; trains what is not known yet."""
        if prefix not in self._known:
            if prefix:
                self.after(prefix[:-1])
            outcome = self._train(prefix)
            with self._results.open("a") as file:
                line = {"prefix": prefix, "validation": outcome.validation, "test": outcome.test}
                file.write(json.dumps(line) + "\n")
            self._known[prefix] = outcome
        return self._known[prefix]

    def _train(self, prefix: Prefix) -> Outcome:
        """Train task len(prefix) from the checkpoint of the prefix before, with the samples that its action chooses."""
        config = replace(_config(self._settings, 1 + len(prefix)), seed=self._seed)
        with ExitStack() as stack:
            trainer, rehearsal = build_trainer(config, detect_world("cpu"), _data(), Monitor(), None, None, stack)
            assert rehearsal is not None
            if prefix:
                trainer.load_state_dict(torch.load(self._checkpoint(prefix[:-1]), weights_only=True))
                with rehearsal.edit() as edit:
                    edit.remove(edit.sample_ids)
                    edit.insert(self._replayed(config, prefix[-1]))
            trainer.run()
            if len(prefix) < NUM_TASKS - 1:
                torch.save(trainer.state_dict(), self._checkpoint(prefix))
            scores = trainer.scores
        self.trained += 1
        return Outcome(_last_row(scores.validation), _last_row(scores.main))

    def _replayed(self, config: TrainConfig, action: Action) -> Minibatch:
        """The samples that the next task replays: the first of each task in an order that is drawn for the transition.

        Two schedules thus differ in the samples' number, and not in the luck of their draw.
        """
        scenario = build_scenario(build_variant("scenario", config.scenario), _data(), seed=config.seed)
        parts = []
        for task, count in zip(scenario, quotas(action, self._samples), strict=False):
            if count:
                parts.append(task.train.gather(_in_turns(task, config.seed, len(action), self._draw)[:count]))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _checkpoint(self, prefix: Prefix) -> Path:
        return self._folder / ("-".join(["state", *("".join(map(str, action)) for action in prefix)]) + ".pt")


def quotas(action: Action, samples: int) -> list[int]:
    """How many of the samples each task gives: shares of `samples`, rounded by the largest remainder."""
    exact = np.array(action) * samples / sum(action)
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: samples - int(counts.sum())]:
        counts[index] += 1
    return [int(count) for count in counts]


def _in_turns(task: Task, seed: int, *draw: int) -> Int64Array:
    """A task's training samples in a random order in which the classes take turns."""
    order = permutation(len(task.train), seed, "replayed", *draw, task.index)
    labels, turn = task.train.labels[order], np.empty(len(order), np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange(int((labels == label).sum()))
    return order[np.argsort(turn, kind="stable")]


def _last_row(matrix: Any) -> tuple[float, ...]:
    return tuple(matrix.rows()[-1][: matrix.num_tasks])


def _as_prefix(listed: list[list[int]]) -> Prefix:
    return tuple(tuple(action) for action in listed)


@cache
def _config(settings: tuple[str, ...], num_tasks: int) -> TrainConfig:
    return compose_config([*SETTINGS, *settings, f"scenario.num_tasks={num_tasks}"])[0]


@cache
def _data() -> Dataset:
    return load_dataset("fashion_mnist")
