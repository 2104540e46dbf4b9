"""What a network's outputs mean: which fields go in, what the loss of a row is, which scores count and which way is
better. Strategies and the trainer speak of outputs, rows and scores only.

Outputs are a tensor, or a tuple, list or dictionary of tensors, each with one row per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from drb.data.datasets import Source
from drb.data.scenarios.task import Task
from drb.training.method.part import Part
from drb.training.method.structure import tensors_in
from drb.types import Minibatch
from drb.variant import name_of

Sums: TypeAlias = dict[str, Tensor]
"""Sums over rows, float64, by name: they add up over batches and ranks. A score may need several, or a histogram."""


@dataclass(frozen=True)
class Metric:
    """A score of a network on a test set.

    higher_is_better: the direction, for backward and forward transfer and forgetting.
    bounds:           its least and greatest value, if it has some; it is shown in percent if they are 0 and 1
    has_baseline:     it is also measured on the untrained network, for forward transfer
    zero_shot:        it is also measured on a task before it is trained
    """

    name: str
    higher_is_better: bool = True
    bounds: tuple[float, float] | None = None
    has_baseline: bool = False
    zero_shot: bool = True

    def show(self, value: float) -> str:
        """For people: 81.2%, or 0.0123."""
        return f"{value:.1%}" if self.bounds == (0.0, 1.0) else f"{value:.4g}"


class Objective(Part):
    """What is learnt. A subclass lists its metrics, the one that counts first."""

    metrics: ClassVar[tuple[Metric, ...]] = ()

    @property
    def class_field(self) -> str | None:
        """The field of a row's class; None if there are no classes."""
        return None

    # -- a task

    def num_outputs(self, task: Task) -> int | None:
        """How many outputs the network's head needs for this task; None if outputs never change. Not collective."""
        return None

    def begin_task(
        self, classes_of_tasks: Sequence[tuple[int, ...]], num_outputs: int, *, task_aware: bool, device: torch.device
    ) -> None:
        """The head has so many outputs now. Called at a task's begin and after a resume.

        Args:
            classes_of_tasks: of all tasks so far, this one included.
            task_aware: the task is known at test time, and minibatches carry `task`.
        """

    def check_source(self, source: Source, num_outputs: int, where: str) -> None:
        """Check the targets of a whole source.

        Raises:
            ValueError: a target that no output can have, if the source tells without being read.
        """

    def check(self, minibatch: Minibatch, num_outputs: int, where: str) -> None:
        """The same of one minibatch, on the host."""

    def max_columns(self, example: Minibatch, num_classes: int) -> int:
        """How many numbers the outputs for a sample have at most, for exemplars that are stored with them.

        Args:
            example: a minibatch of the stream. num_classes: of the data set.
        """
        return num_classes

    def field(self, option: str, batch: Minibatch, name: str | None = None) -> Tensor:
        """The field of a minibatch that an option names.

        Args:
            name: the field's, if the option is a list.
        Raises:
            ValueError: the minibatch has no such field.
        """
        name = getattr(self, option) if name is None else name
        if name not in batch:
            raise ValueError(
                f"objective.{option} names the field {name!r}, which the data set does not have; choose one of its "
                f"fields {', '.join(batch)}"
            )
        return batch[name]

    # -- training

    def inputs(self, batch: Minibatch) -> Any:
        """The fields that the network takes, as they are stored; augmentation and normalisation come after."""
        raise NotImplementedError

    def labels(self, batch: Minibatch) -> Tensor:
        """The class of each row, int64 [B].

        Raises:
            ValueError: the objective knows no classes.
        """
        return batch[self.require_classes()]

    def require_classes(self) -> str:
        """Return the field of a row's class.

        Raises:
            ValueError: the objective knows no classes.
        """
        if self.class_field is None:
            raise ValueError(
                f"the objective {name_of(self)} has no classes, which this method needs; use objective=classification "
                "or another method"
            )
        return self.class_field

    def row_losses(self, outputs: Any, batch: Minibatch) -> Tensor:
        """The loss of each row, float32 [B]."""
        raise NotImplementedError

    def right(self, outputs: Any, batch: Minibatch) -> Tensor:
        """Return whether the outputs are right about each row, bool [B].

        Raises:
            ValueError: the objective does not say what is right.
        """
        raise ValueError(f"the objective {name_of(self)} does not say which outputs are right")

    @classmethod
    def tells_right(cls) -> bool:
        """Whether `right` says something."""
        return cls.right is not Objective.right

    def mean_loss(self, outputs: Any, batch: Minibatch) -> Tensor:
        """The mean of `row_losses`, a scalar; for losses that one operation computes at once."""
        return self.row_losses(outputs, batch).mean()

    def fisher_terms(self, outputs: Any, batch: Minibatch) -> Tensor:
        """Numbers for each row whose squared gradients add up to the Fisher information: float32 [B, K].

        The Fisher information is the expectation, over targets distributed as the outputs say, of the square of the
        gradient of the target's log-likelihood. Factors that depend on the weights must be detached.

        Raises:
            ValueError: the objective does not say how its targets are distributed.
        """
        raise ValueError(
            f"the objective {name_of(self)} does not say how its targets are distributed, so the true Fisher "
            "information is unknown; use fisher=empirical"
        )

    def flatten(self, outputs: Any) -> Tensor:
        """Outputs as numbers that a record can hold: float32 [B, K]."""
        return torch.cat([value.flatten(1).float() for value in tensors_in(outputs)], dim=1)

    def distance(self, outputs: Any, stored: Tensor) -> Tensor:
        """The mean square difference of each row to stored outputs, over the columns that are known: float32 [B].

        Args:
            stored: float32 [B, K'], NaN where a column was not known; K' may exceed the outputs' K.
        """
        flat = self.flatten(outputs)
        stored = stored[:, : flat.shape[1]]
        known = ~stored.isnan()
        squares = torch.where(known, flat[:, : stored.shape[1]] - stored.nan_to_num(), 0.0).square()
        return squares.sum(dim=1) / known.sum(dim=1).clamp_min(1)

    # -- evaluation

    def scorer(self, source: Source, classes: Sequence[int] | None) -> Callable[[Any, Minibatch], Sums]:
        """A function of outputs and a batch of this source that gives `Sums`, for `values`.

        Args:
            classes: those of the task, None for all.
        """
        raise NotImplementedError

    def values(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Each metric's value, from sums over a whole test set; `count` is the number of samples."""
        return {metric.name: float(sums[metric.name] / sums["count"]) for metric in self.metrics}
