"""One optimiser step: the batches that are accumulated for it, and what they leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from drb.distributed.reduction import sum_over_ranks, values_of_first_rank
from drb.distributed.world import World
from drb.training.method.parameters import Gradient, ParameterVector, Weights


@dataclass
class Cost:
    """What a method has computed on this rank, in rows.

    trained: rows that went forward and backward
    forward: rows that went forward only
    """

    trained: int = 0
    forward: int = 0

    def as_tensor(self) -> Tensor:
        """float64 [2]: trained, forward."""
        return torch.tensor([self.trained, self.forward], dtype=torch.float64)

    def load(self, values: Tensor) -> None:
        """Go on counting from what `as_tensor` gave."""
        self.trained, self.forward = (round(value) for value in values.tolist())


@dataclass
class References:
    """Sums of gradients of the loss on exemplars apart, with the numbers of rows, one per group of exemplars."""

    sums: dict[int, Gradient] = field(default_factory=dict)
    rows: dict[int, int | Tensor] = field(default_factory=dict)

    def add(self, group: int, gradient: Gradient, rows: int | Tensor) -> None:
        """A gradient of a sum over so many of this rank's rows; groups are 0, 1, … and alike on all ranks."""
        self.rows[group] = self.rows.get(group, 0) + rows
        if group in self.sums:
            self.sums[group].add_(gradient)
        else:
            self.sums[group] = gradient

    def means(self, world: World) -> list[Gradient]:
        """The mean gradient over all rows of all ranks, 0 without rows, by group. One message; collective."""
        groups = sorted(self.sums)
        tensors = [tensor for group in groups for tensor in self.sums[group].tensors.values()]
        if not tensors:
            return []
        counts = torch.stack([torch.as_tensor(self.rows[group]).to(tensors[0]) for group in groups])
        *totals, counts = sum_over_ranks([*tensors, counts], world)
        means, start = [], 0
        for place, group in enumerate(groups):
            names = list(self.sums[group].tensors)
            vector = ParameterVector(dict(zip(names, totals[start : start + len(names)], strict=True)))
            means.append(vector / counts[place].clamp_min(1))
            start += len(names)
        return means


@dataclass
class Step:
    """One optimiser step of `num_batches` accumulated batches.

    number:     the step's number in the run, counted from 1
    network:    the bare network, whose weights move at the end of the step
    rate:       the optimizer's learning rate
    new_rows:   rows of the stream in all batches of all ranks
    num_tasks:  tasks seen so far, this one included
    expected_rows: rows of all batches of all ranks with their exemplars, as far as is known at the first batch
    rows:       rows of all ranks in the batches so far, exemplars included
    references: mean gradients on exemplars apart, by group; for `project`
    cost:       the run's count of rows, to be added to
    world:      of the run
    """

    number: int
    network: nn.Module
    rate: float
    num_batches: int
    new_rows: int
    num_tasks: int
    cost: Cost
    world: World
    expected_rows: int = 0
    rows: int = 0
    references: Sequence[Gradient] = ()
    partial: References = field(default_factory=References)

    @property
    def weights(self) -> Weights:
        """The network's weights as they are now, not copied."""
        return ParameterVector.weights_of(self.network)

    def of_first_rank(self, values: Tensor) -> Tensor:
        """Rank 0's values on every rank, for what ranks may not compute alike, such as a solver's result."""
        return values_of_first_rank(values, self.world)

    def reduce_references(self) -> None:
        """Collective."""
        self.references = self.partial.means(self.world)
