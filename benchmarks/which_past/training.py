"""Trains a network on a base, and then on what is new while some of the base is rehearsed through `drb.Rehearsal`.

With W ranks each holds a W-th of the base, and has a W-th of the new rows and exemplars of a step.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.which_past.points import Point
from benchmarks.which_past.streams import CLUSTERS, KMEANS_PARTS, KMEANS_STEPS, Samples, Stream, as_input
from drb import Rehearsal
from drb.sampling.proportions import PROPORTIONS, Proportions

BATCH, HIDDEN, RATE = 32, 100, 0.05
_FILL = 2000  # rows at once, as the buffer is filled


class Base:
    """A network that was trained on the base of a stream, and what it makes of it."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream, self.seed = stream, seed
        self.network = _train_on_base(stream, seed)
        self.right = right(self.network, stream.base_test)

    def bins(self) -> Tensor:
        """The tenth by loss that each base sample is in: int64 [n]. It takes a pass over the base."""
        with torch.no_grad():
            parts = zip(self.stream.base.x.split(5000), self.stream.base.label.split(5000), strict=True)
            losses = [F.cross_entropy(self.network(as_input(x)), y, reduction="none") for x, y in parts]
        return torch.cat(losses).argsort().argsort() * 10 // len(self.stream.base)


def _train_on_base(stream: Stream, seed: int, epochs: int = 4, rate: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    width = stream.base.x.shape[1]
    network = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, stream.num_classes))
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
        for rows in torch.randperm(len(stream.base), generator=order).split(128):
            optimizer.zero_grad()
            F.cross_entropy(network(as_input(stream.base.x[rows])), stream.base.label[rows]).backward()
            optimizer.step()
    return network


@torch.no_grad()
def right(network: nn.Module, samples: Samples) -> Tensor:
    """Whether the network is right about each sample: bool [n]."""
    return network(as_input(samples.x)).argmax(1) == samples.label


def train(base: Base, point: Point) -> dict[str, Any]:
    """Train on what is new; what came of it. Collective.

    accuracy_old, accuracy_new: shares. accuracy_clusters, drawn_clusters: of old test samples in each cluster, and the
    share of rehearsed rows that was from each. rows_trained, rows_forward: of all ranks.
    """
    stream = base.stream
    network, counts = copy.deepcopy(base.network), torch.zeros(CLUSTERS, dtype=torch.int64)
    forward = 0
    with _rehearsal(base, point) as rehearsal:
        start = time.process_time()
        trained, forward = _steps(network, base, point, rehearsal, counts)
        seconds = time.process_time() - start
    old = right(network, stream.base_test)
    return {
        "accuracy_old": old.float().mean().item(),
        "accuracy_new": right(network, stream.new_test).float().mean().item(),
        "accuracy_clusters": by_cluster(old, stream.base_test),
        "drawn_clusters": (counts / counts.sum()).tolist(),
        "rows_trained": trained,
        "rows_forward": forward + (len(stream.base) if point.by == "bin" else 0),
        "rows_clustered": _rows_clustered(stream) if point.proportions != "uniform" and point.by == "cluster" else 0,
        "cpu_seconds": seconds,
    }


def by_cluster(of: Tensor, samples: Samples) -> list[float]:
    """The mean in each cluster of the samples."""
    sums = torch.bincount(samples.cluster, of.double(), CLUSTERS)
    return (sums / torch.bincount(samples.cluster, minlength=CLUSTERS).clamp(min=1)).tolist()


def _rows_clustered(stream: Stream) -> int:
    """Rows that k-means compared with its centroids."""
    return len(stream.base) * KMEANS_STEPS // KMEANS_PARTS + len(stream.base)


def _steps(network: nn.Module, base: Base, point: Point, rehearsal: Rehearsal, counts: Tensor) -> tuple[int, int]:
    """All steps; how many rows went forward and backward, and forward only."""
    stream, (rank, size) = base.stream, _rank_and_size()
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    nothing = _minibatch(base, point, slice(0, 0))
    order = torch.Generator().manual_seed(1000 + base.seed)
    trained = forward = 0
    for _ in range(stream.epochs):
        for batch in torch.randperm(len(stream.new), generator=order).split(BATCH):
            rows = batch[rank::size]
            exemplars = rehearsal.step(nothing)
            assert exemplars is not None
            x = as_input(torch.cat((stream.new.x[rows], exemplars.fields["x"])))
            label = torch.cat((stream.new.label[rows], exemplars.fields["label"]))
            outputs = network(x)
            losses = F.cross_entropy(outputs, label, reduction="none")
            old = slice(len(rows), None)
            optimizer.zero_grad()
            _loss(losses, len(rows), point.share).backward()
            _average_gradients(network)
            optimizer.step()
            loss, correct = losses.detach()[old], outputs[old].argmax(1) == label[old]
            if point.before:
                loss, correct = _against(base.network, x[old], label[old], loss, correct)
                forward += len(loss) * size
            rehearsal.feedback(exemplars.handle, loss=loss, correct=correct)
            counts += torch.bincount(exemplars.fields["cluster"], minlength=CLUSTERS)
            trained += len(x) * size
    return trained, forward


def _loss(losses: Tensor, num_new: int, share: float | None) -> Tensor:
    if share is None:
        return losses.mean()
    return (1 - share) * losses[:num_new].mean() + share * losses[num_new:].mean()


@torch.no_grad()
def _against(before: nn.Module, x: Tensor, label: Tensor, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    outputs = before(x)
    was_right = outputs.argmax(1) == label
    return loss - F.cross_entropy(outputs, label, reduction="none"), correct | ~was_right


def _rehearsal(base: Base, point: Point) -> Rehearsal:
    """The base in the buffers of all ranks, by the strata of the point."""
    rank, size = _rank_and_size()
    own = torch.arange(rank, len(base.stream.base), size)
    rehearsal = Rehearsal(
        capacity=len(own),
        exemplars=point.exemplars // size,
        seed=base.seed,
        stratum="stratum",
        proportions=_proportions(point),
        asynchronous=False,
        verbose=False,
    )
    strata = {"cluster": base.stream.base.cluster, "label": base.stream.base.label}
    stratum = base.bins() if point.by == "bin" else strata[point.by]
    for rows in own.split(_FILL):
        rehearsal.step({**_minibatch(base, point, rows), "stratum": stratum[rows]})
    for _ in range(2):  # the last of the base can be drawn two steps later
        rehearsal.step(_minibatch(base, point, slice(0, 0)))
    return rehearsal


def _minibatch(base: Base, point: Point, rows: Tensor | slice) -> dict[str, Tensor]:
    samples, ids = base.stream.base, torch.arange(len(base.stream.base))
    return {
        "x": samples.x[rows],
        "label": samples.label[rows],
        "cluster": samples.cluster[rows],
        "stratum": samples.cluster[rows],
        "sample_id": ids[rows],
    }


def _proportions(point: Point) -> Proportions:
    return PROPORTIONS.build(PROPORTIONS.find(point.proportions), point.options)


def _rank_and_size() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _average_gradients(network: nn.Module) -> None:
    if dist.is_initialized():
        for parameter in network.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
