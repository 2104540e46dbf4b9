"""Small runs of any method on any number of ranks: what every step was given, resumed at an odd step or not.

Two tasks of two classes each, three accumulated batches a step. On two ranks, every fifth minibatch of the last one has
no rows.
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from training.parts import SHAPE, make_network, preprocess, small_dataset, weights

from drb import Field, Rehearsal
from drb.data.epochs import Deal
from drb.data.loader import TaskLoader
from drb.data.scenarios import build_scenario
from drb.distributed.world import World
from drb.training import Constant, Sgd, Trainer, TrainingSettings
from drb.training.method.method import Method
from drb.training.method.parameters import ParameterVector
from drb.training.method.part import Part
from drb.types import Minibatch

SAMPLES, BATCH, ACCUMULATED, RATE, EXEMPLARS = 88, 4, 3, 0.1, 3
ODD_STEP = 5  # the first one of the second task
Digests = list[str]


class LoaderWithGaps(TaskLoader):
    """The last of several ranks has no rows in every fifth minibatch, or in other ones."""

    every = 5

    def deal(self, *arguments: Any, **options: Any) -> Deal:
        deal = super().deal(*arguments, **options)
        last = self._world_size - 1
        if last:
            rows, own = deal.rows().copy(), np.diff(deal.bounds(last))
            first = 1 % self.every
            rows[first :: self.every] -= own[first :: self.every]
            deal.rows = lambda: rows  # type: ignore[method-assign]
        return deal

    def epoch(self, epoch: int, start: int = 0, *arguments: Any) -> Iterator[Minibatch]:
        is_last = 0 < self._rank == self._world_size - 1
        for index, minibatch in enumerate(super().epoch(epoch, start, *arguments), start):
            yield (
                {n: v[:0] for n, v in minibatch.items()}
                if is_last and index % self.every == 1 % self.every
                else minibatch
            )


class LoaderOfOneRankLess(LoaderWithGaps):
    """The last rank never has rows."""

    every = 1


class Watched(Trainer):
    """Keeps every batch that the method was given, and the weights after every step."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        parts: Callable[[], tuple[Any, list[Any]]],
        *,
        scenario: str = "class_incremental",
        num_tasks: int = 2,
        loader: type[LoaderWithGaps] = LoaderWithGaps,
        rehearsal: dict[str, Any] | None = None,
        **training: Any,
    ) -> None:
        """rehearsal: settings."""
        self._loader_type = loader
        strategy, terms = parts()
        method = Method(strategy, terms)
        self.rehearsal = open_rehearsal(method, **rehearsal or {}) if method.draws.total else None
        self.digests: Digests = []
        self.batches: list[dict[str, Any]] = []
        self.saved: dict[str, Any] | None = None
        self.evaluated: dict[str, Any] = {}
        super().__init__(
            build_scenario(scenario, small_dataset(SAMPLES), seed=0, num_tasks=num_tasks),
            make_network,
            preprocess(),
            strategy,
            terms=terms,
            world=World(rank, world_size),
            training=TrainingSettings(**{"batch_size": BATCH, "accumulate": ACCUMULATED, "epochs": 2} | training),
            optimizer=Sgd(lr=RATE),
            schedule=Constant(),
            rehearsal=self.rehearsal,
            num_exemplars=EXEMPLARS,
            on_step=self.look,
        )
        loss = self._batches.loss
        self._batches.loss = lambda batch: self._record(batch, loss)  # type: ignore[method-assign]

    def _loader(self, source: Any, task: Any) -> TaskLoader:
        loader = super()._loader(source, task)
        loader.__class__ = self._loader_type
        return loader

    def _finish(self, task: Any, learner: Any, loader: TaskLoader) -> None:
        loader.__class__ = TaskLoader  # all of the data
        super()._finish(task, learner, loader)

    def _record(self, batch: Any, loss: Callable[[Any], Tensor]) -> Tensor:
        value = loss(batch)
        fields = {name: field.numpy().copy() for name, field in batch.items()}
        apart = {name: field.numpy().copy() for name, field in batch.apart.items()}
        new = batch.num_rows if batch.new is batch.all else batch.new.stop
        stored = self.rehearsal.counts() if self._components.method.needs.counts else {}
        self.batches.append(
            {
                "fields": fields,
                "apart": apart,
                "new": new,
                "step": batch.step.number,
                "stored": stored,
                "exchanges": getattr(self._batches.learner._forward, "require_backward_grad_sync", None),
            }
        )
        return value

    def look(self) -> None:
        self.digests.append(digest(self.network.state_dict()))
        if self.steps == ODD_STEP:
            self.saved = copy.deepcopy(self.state_dict())


def open_rehearsal(
    method: Method,
    capacity: int = 10,
    batch_size: int = BATCH + 1,
    *,
    exemplars: int = EXEMPLARS,
    shape: tuple[int, ...] = SHAPE,
    classes: int = 4,
    **options: Any,
) -> Rehearsal:
    """With the draws, candidates and late fields that the method needs."""
    spec = None
    if method.needs.late:
        late = {name: field.declared(max_outputs=classes) for name, field in method.needs.late.items()}
        spec = {"image": Field(torch.uint8, shape), "label": Field(torch.int64), **late}
    return Rehearsal(
        capacity,
        method.needs.candidates or exemplars,
        draws=method.draws.total,
        spec=spec,
        admission=method.needs.admission or "reservoir",
        batch_size=batch_size,
        verbose=False,
        **options,
    )


def run(rank: int, world_size: int, parts: Callable[[], tuple[Any, list[Any]]], **training: Any) -> dict[str, Any]:
    """Train, then again from the state after an odd step; everything that must be equal, and what the first one saw."""
    first = Watched(rank, world_size, parts, **training)
    first.run()
    again = Watched(rank, world_size, parts, **training)
    again.load_state_dict(first.saved)  # type: ignore[arg-type]
    again.run()
    results = {name: outcome(trainer) for name, trainer in (("first", first), ("again", again))}
    evaluated = first._components.method.evaluated_network(first.network)
    kept = {
        **results,
        "saved": as_bytes(first.saved),
        "learnt": numbers_in(first._components.method.state_dict()),
        "digests": first.digests,
        "digests_again": again.digests,
        "batches": first.batches,
        "weights": weights(first.network),
        "evaluated": weights(evaluated),
        "vectors": {name: vectors_of(part) for name, part in first._components.method.parts.items()},
        "stored": stored_of(first),
        "predictions": first._components.method.predict(first.network.eval(), inputs_of(SAMPLES)).detach().numpy(),
        "cost": (first.progress.cost.trained, first.progress.cost.forward),
        "mean_cost": first.progress.mean_cost,
        "during": first.scores.during_tasks,
    }
    for trainer in (first, again):
        if trainer.rehearsal is not None:
            trainer.rehearsal.close()
    return kept


def vectors_of(part: Part) -> dict[str, dict[str, Any]]:
    """Importances, anchors and averages by attribute and parameter."""
    vectors = {name: value for name, value in part.learnt().items() if isinstance(value, ParameterVector)}
    return {n: {key: t.numpy().copy() for key, t in vector.tensors.items()} for n, vector in vectors.items()}


def as_bytes(state: Any) -> bytes:
    """For another process: tensors do not outlive the rank that sends them."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def numbers_in(state: Any) -> list[Any]:
    """The arrays of a nested state, in order."""
    if isinstance(state, dict):
        return [array for key in sorted(state) for array in numbers_in(state[key])]
    return [state.detach().numpy().astype(np.float64)] if isinstance(state, Tensor) else []


def stored_of(trainer: Watched) -> dict[str, Any]:
    """This rank's exemplars."""
    if trainer.rehearsal is None:
        return {}
    late = list(trainer._components.method.needs.late)
    with trainer.rehearsal.edit() as edit:
        parts = [{**stored.fields, "sample_id": stored.sample_id} for stored in edit.stored("image", "label", *late)]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]} if parts else {}


def inputs_of(count: int) -> Tensor:
    return preprocess().evaluate(small_dataset(count).train.gather(np.arange(count))["image"])


def outcome(trainer: Watched) -> dict[str, Any]:
    return {
        "weights": digest(trainer.network.state_dict()),
        "learnt": digest(trainer._components.method.state_dict()),
        "scores": trainer.scores.state_dict(),
        "cost": trainer.progress.mean_cost,
        "ids": [] if trainer.rehearsal is None else trainer.rehearsal.sample_ids().tolist(),
    }


def digest(state: Any) -> str:
    total = hashlib.blake2b(digest_size=8)

    def feed(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                total.update(key.encode())
                feed(value[key])
        elif isinstance(value, Tensor):
            total.update(value.detach().contiguous().numpy().tobytes())
        else:
            total.update(repr(value).encode())

    feed(state)
    return total.hexdigest()


def case(rank: int, world_size: int, cases: dict[str, Any]) -> dict[str, Any]:
    """Several methods in one group of ranks."""
    results = {}
    for name, (parts, training) in cases.items():
        try:
            results[name] = run(rank, world_size, parts, **training)
        except BaseException as error:
            raise AssertionError(f"{name} on rank {rank}: {type(error).__name__}: {error}") from error
        dist.barrier()
    return results
