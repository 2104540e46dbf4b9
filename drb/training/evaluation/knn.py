"""The accuracy of nearest neighbours in feature space, which measures representations without the head.

The neighbours of a test sample are the `neighbours` training samples of its task of the largest cosine similarity s;
each votes for its class with weight exp(s / 0.1), and 200 are usual (Wu et al. 2018, arXiv 1805.01978; of tasks in
continual learning: Madaan et al. 2022, arXiv 2110.06976).

Every rank holds the features of its share of the training samples. It finds the nearest of those for all ranks' test
samples, and the ranks' candidates are merged.

Letters: n training samples of this rank, Q test samples of all ranks, F features, k neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from drb.data.datasets import Source
from drb.data.pinned import gatherer, memory_for
from drb.data.prefetch import gather_ahead
from drb.distributed.reduction import gather_rows
from drb.distributed.world import World
from drb.training.evaluation.evaluate import eval_mode, present_rows
from drb.training.objectives.objective import Metric
from drb.training.terms.nearest_mean import normalised_features
from drb.types import Minibatch

TEMPERATURE = 0.1
KNN = Metric("knn", bounds=(0.0, 1.0), zero_shot=False)


def knn_accuracy(
    network: nn.Module,
    bank: Source,
    test: Source,
    *,
    prepare: Callable[[Minibatch], tuple[Tensor, Tensor]],
    neighbours: int,
    batch_size: int,
    world: World,
) -> float:
    """The share of test samples whose neighbours' votes are right. Collective.

    Args:
        bank: the training samples, the same on every rank.
        prepare: the network's inputs and the classes, int64 [B], of a minibatch.
        neighbours: k; all if there are fewer.
        batch_size: rows at a time on each rank.
    """
    with eval_mode(network), torch.inference_mode():
        known = list(_features(network, bank, prepare, batch_size, world))
        features, labels = (torch.cat([part[i] for part in known]) for i in range(2))
        num_classes = 1 + int(max(bank.labels.max(), test.labels.max()))
        right = torch.zeros(2, dtype=torch.float64, device=features.device)
        for own, wanted in _features(network, test, prepare, batch_size, world):
            similarity, voters = _nearest(gather_rows(own, world), features, labels, neighbours, world)
            votes = similarity.new_zeros(len(similarity), num_classes)
            votes.scatter_add_(1, voters, (similarity / TEMPERATURE).exp())
            hits = votes.argmax(dim=1) == gather_rows(wanted, world)
            right += torch.stack([hits.sum(), torch.ones_like(hits).sum()])
    return float(right[0] / right[1])


def _features(
    network: nn.Module, source: Source, prepare: Callable[[Minibatch], tuple[Tensor, Tensor]], size: int, world: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and classes of this rank's rows, a batch at a time: equally many batches on every rank."""
    rows = present_rows(source)
    starts = range(0, len(rows), size * world.world_size)
    parts = [rows[start + world.rank : start + size * world.world_size : world.world_size] for start in starts]
    for minibatch in gather_ahead(gatherer(source, memory_for(world.device)), parts):
        inputs, labels = prepare(minibatch)
        yield normalised_features(network, inputs), labels


def _nearest(queries: Tensor, features: Tensor, labels: Tensor, k: int, world: World) -> tuple[Tensor, Tensor]:
    """The similarities and classes of the nearest training samples of all ranks: [Q, min(k, all)] each."""
    similarity, which = (queries @ features.T).topk(min(k, len(features)), dim=1)
    everyones = gather_rows(similarity.T.contiguous(), world).T
    classes = gather_rows(labels[which].T.contiguous(), world).T
    nearest, places = everyones.topk(min(k, everyones.shape[1]), dim=1)
    return nearest, classes.gather(1, places)
