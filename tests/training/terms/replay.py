"""The penalties of the literature by plain loops in float64, on the rows that the ranks of a run were given.

A run's ranks say which rows they had in every minibatch. `replay` trains one network of one process on them, and a
`Reference` does with single gradients of single samples what a method's paper says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.method.runs import RATE, SAMPLES
from training.parts import make_network, preprocess, small_dataset

from drb.data.scenarios import build_scenario
from drb.data.scenarios.task import Task
from drb.seeding import derive_seed

Vector = list[Tensor]


class Reference:
    """A quadratic penalty 'factor · strength · importance · (θ − anchor)²' of one process; none by itself."""

    factor = 1.0
    was_limited = False  # whether some weight would have been taken past its anchor

    def __init__(self, strength: float = 0.0) -> None:
        self.strength = strength
        self.penalties: list[tuple[Vector, Vector]] = []  # importance and anchor of each

    def pull(self, weights: Vector) -> Vector:
        total = [torch.zeros_like(w) for w in weights]
        for importance, anchor in self.penalties:
            for place, (i, a) in enumerate(zip(padded(importance, weights), padded(anchor, weights), strict=True)):
                total[place] += 2 * self.factor * self.strength * i * (weights[place] - a)
        if self.penalties:  # at most all of the way to the anchor
            for pull, importance in zip(total, self.importance_of(weights), strict=True):
                share = 2 * self.factor * self.strength * importance * RATE  # of the way that a step would take
                self.was_limited |= bool((share > 1).any())
                pull /= share.clamp(min=1)
        return total

    def importance_of(self, weights: Vector) -> Vector:
        """The importances of all penalties together."""
        each = [padded(importance, weights) for importance, _ in self.penalties]
        return [torch.stack(values).sum(0) for values in zip(*each, strict=True)]

    def stepped(self, gradient: Vector, before: Vector, after: Vector) -> None:
        """After a step, with the gradient of the loss alone."""

    def end_task(self, network: nn.Module, task: Task) -> None:
        """After a task's last step."""


def replay(
    ranks: list[list[dict[str, Any]]],
    scenario: str,
    num_tasks: int,
    reference: Reference,
    loss: Callable[[nn.Module, list[Any]], Tensor] | None = None,
) -> nn.Module:
    """Train as the ranks did. ranks: the batches of each. loss: of a step's batches, each one a tuple of all ranks'."""
    loss = loss or mean_loss
    stream = list(build_scenario(scenario, small_dataset(SAMPLES), seed=0, num_tasks=num_tasks))
    network = make_network(1 + max(stream[0].classes), 0).double()
    steps = max(batch["step"] for batch in ranks[0])
    for step in range(1, steps + 1):
        pairs = [pair for pair in zip(*ranks, strict=True) if pair[0]["step"] == step]
        task = stream[(step - 1) * num_tasks // steps]
        network.grow(1 + max(task.classes), derive_seed(0, "head", task.index))
        network.double()
        gradient = gradient_of(loss(network, pairs), network)
        before = values(network)
        with torch.no_grad():
            for p, g, pull in zip(network.parameters(), gradient, reference.pull(before), strict=True):
                p -= RATE * (g + pull)
        reference.stepped(gradient, before, values(network))
        if step * num_tasks % steps == 0:
            reference.end_task(network, task)
    return network


def mean_loss(network: nn.Module, pairs: list[Any]) -> Tensor:
    """Over the rows of all ranks and batches of a step."""
    rows = {n: np.concatenate([batch["fields"][n] for pair in pairs for batch in pair]) for n in ("image", "label")}
    return F.cross_entropy(network(pixels(torch.from_numpy(rows["image"]))), torch.from_numpy(rows["label"]))


def samples_of(task: Task) -> list[tuple[Tensor, Tensor]]:
    """The task's training samples one by one: double [1, …] and int64 [1]."""
    everything = task.train.gather(np.arange(len(task.train)))
    return [
        (image[None], label[None])
        for image, label in zip(pixels(everything["image"]), everything["label"], strict=True)
    ]


def pixels(images: Tensor) -> Tensor:
    return preprocess().evaluate(images).double()


def gradient_of(value: Tensor, network: nn.Module, *, keep: bool = False) -> Vector:
    return list(torch.autograd.grad(value, list(network.parameters()), retain_graph=keep))


def values(network: nn.Module) -> Vector:
    return [p.detach().clone() for p in network.parameters()]


def padded(vector: Vector, like: Vector) -> Vector:
    """With zeros for the rows that a head has gained."""
    grown = [torch.zeros_like(p) for p in like]
    for new, old in zip(grown, vector, strict=True):
        new[: len(old)] = old
    return grown
