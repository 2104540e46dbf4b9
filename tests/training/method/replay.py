"""One process of plain torch on the rows that all ranks were given, step by step, as `runs.Watched` kept them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.method.runs import RATE
from training.parts import make_network, preprocess

from drb.seeding import derive_seed

Pair = Sequence[dict[str, Any]]
"""One batch of each rank."""


class Replay:
    """Two tasks with equally many steps.

    results: of the ranks, as `runs.run` gives them.
    """

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        self.results = results
        ranks = [result["batches"] for result in results]
        self.network = make_network(2, 0)
        last = max(batch["step"] for batch in ranks[0])
        self.steps: list[list[Pair]] = [
            [pair for pair in zip(*ranks, strict=True) if pair[0]["step"] == step] for step in range(1, last + 1)
        ]
        self.steps_per_task = len(self.steps) // 2
        self.task = 0

    def grow(self) -> None:
        self.network.grow(4, derive_seed(0, "head", 1))
        self.task = 1

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.network.parameters())

    def outputs(self, fields: dict[str, Any], network: nn.Module | None = None) -> Tensor:
        return (network or self.network)(preprocess().evaluate(torch.from_numpy(fields["image"])))

    def loss(self, pairs: Sequence[Pair], of_batch: Callable[[Pair], Tensor]) -> Tensor:
        """Of a step: each batch counts by its rows."""
        sizes = [sum(len(batch["fields"]["label"]) for batch in pair) for pair in pairs]
        return sum(of_batch(pair) * size / sum(sizes) for pair, size in zip(pairs, sizes, strict=True))

    def run(self, step: Callable[[Sequence[Pair]], list[Tensor]], end_task: Any = lambda: None) -> dict[str, Tensor]:
        """step: gives the gradient of a step, one tensor for each parameter."""
        for index, pairs in enumerate(self.steps):
            if index == self.steps_per_task:
                end_task()
                self.grow()
            gradient = step(pairs)
            with torch.no_grad():
                for parameter, g in zip(self.parameters, gradient, strict=True):
                    parameter -= RATE * g
        end_task()
        return self.network.state_dict()

    def run_loss(self, of_batch: Callable[[Pair], Tensor], end_task: Any = lambda: None) -> None:
        """Train by a loss of one batch of all ranks, and compare the weights."""
        self.check(self.run(lambda pairs: self.gradient(self.loss(pairs, of_batch)), end_task))

    def mean_loss(self, pair: Pair) -> Tensor:
        """Cross-entropy over all ranks' rows."""
        both = rows_of(pair, lambda batch: slice(None), "image", "label")
        return F.cross_entropy(self.adjust(self.outputs(both)), torch.from_numpy(both["label"]))

    def adjust(self, outputs: Tensor) -> Tensor:
        return outputs

    def gradient(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.parameters))

    def check(self, expected: dict[str, Tensor], which: str = "weights", tolerance: float = 2e-6) -> None:
        """Every rank has these weights."""
        for result in self.results:
            for parameter, value in expected.items():
                np.testing.assert_allclose(result[which][parameter], value.numpy(), rtol=0, atol=tolerance)


def rows_of(pair: Pair, rows: Callable[[dict[str, Any]], Any], *names: str) -> dict[str, Any]:
    """Rows of all ranks' batches. rows: of a batch."""
    return {n: np.concatenate([b["fields"][n][rows(b)] for b in pair if n in b["fields"]]) for n in names}


def new_rows(batch: dict[str, Any]) -> slice:
    return slice(batch["new"])


def exemplars(batch: dict[str, Any]) -> slice:
    return slice(batch["new"], None)


def draws(batch: dict[str, Any]) -> tuple[slice, slice]:
    """The rows of two draws."""
    new, size = batch["new"], (len(batch["fields"]["label"]) - batch["new"]) // 2
    return slice(new, new + size), slice(new + size, new + 2 * size)


def network_at_the_end(results: Sequence[dict[str, Any]]) -> nn.Module:
    network = make_network(4, 0).eval()
    network.load_state_dict({n: torch.from_numpy(v) for n, v in results[0]["weights"].items()})
    return network
