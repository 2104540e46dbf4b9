"""The accuracy of nearest neighbours, on one rank and on several, against brute force."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from ranks import run_ranks
from training.parts import make_network, preprocess, small_dataset, small_trainer

from drb.distributed.world import World
from drb.training.evaluation.knn import knn_accuracy
from drb.training.strategies import STRATEGIES

NEIGHBOURS = (1, 5, 200)


def prepare(minibatch):
    return preprocess().evaluate(minibatch["image"]), minibatch["label"]


def measure(rank, world_size):
    data, network = small_dataset(50), make_network(4, 0)
    return [
        knn_accuracy(
            network, data.train, data.test, prepare=prepare, neighbours=k, batch_size=3, world=World(rank, world_size)
        )
        for k in NEIGHBOURS
    ]


def unit(network, source):
    rows = source.gather(np.arange(len(source)))
    features = network.features(prepare(rows)[0]).detach().numpy().astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), rows["label"].tolist()


def expected(k):
    data, network = small_dataset(50), make_network(4, 0)
    (bank, classes), (queries, wanted) = unit(network, data.train), unit(network, data.test)
    right = 0
    for query, label in zip(queries, wanted, strict=True):
        similarity = [float(query @ row) for row in bank]
        votes: Counter[int] = Counter()
        for i in sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]:
            votes[classes[i]] += math.exp(similarity[i] / 0.1)
        right += votes.most_common(1)[0][0] == label
    return right / len(wanted)


@pytest.mark.parametrize("world_size", [1, 3])
def test_neighbours_vote_by_their_similarity(world_size):
    wanted = [expected(k) for k in NEIGHBOURS]
    assert len(set(wanted)) > 1
    for values in run_ranks(measure, world_size):
        assert values == pytest.approx(wanted)


def test_every_seen_task_is_measured_after_each_task_if_asked_for():
    trainer = small_trainer(small_dataset(60), STRATEGIES.build("finetune"), knn=5)
    trainer.run()
    rows = trainer.scores.summary()["knn_matrix"]
    assert [len(row) for row in rows] == [1, 2]
    assert all(0 <= value <= 1 for row in rows for value in row)
    assert trainer.scores.latest()["knn/task_2"] == rows[1][1]
    assert "knn_matrix" not in small_trainer(small_dataset(60), STRATEGIES.build("finetune")).scores.summary()
    assert torch.is_grad_enabled()
