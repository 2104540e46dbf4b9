"""The gradient of a step is that of the mean over all rows, whatever each rank had and however they were added up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_cases, run_ranks
from training.parts import Recording, close, make_network, preprocess, small_dataset, small_trainer, weights

from drb import Rehearsal
from drb.distributed.world import World
from drb.training import Adam, Sgd

SAMPLES = 41  # 41 = 20 + 21 = 13 + 14 + 14: ranks have unequal minibatches at the end of an epoch
MOMENTUM = Sgd(lr=0.1, momentum=0.9)
ADAM = Adam(lr=0.01)
CASES = {  # strategy, accumulated batches, optimizer
    "finetune": ("finetune", 1, MOMENTUM),
    "finetune with adam": ("finetune", 1, ADAM),
    "er": ("er", 1, MOMENTUM),
    "er with adam": ("er", 1, ADAM),
    "er accumulating": ("er", 3, MOMENTUM),
    "er accumulating with adam": ("er", 3, ADAM),
}


def train_on_ranks(rank, world_size, strategy, accumulate, optimizer):
    """What this rank showed the network, and the final weights."""
    recording = Recording(base=strategy)
    rehearsal = Rehearsal(capacity=10, exemplars=3, verbose=False, batch_size=5) if strategy == "er" else None
    trainer = small_trainer(
        small_dataset(SAMPLES),
        recording,
        world=World(rank, world_size),
        rehearsal=rehearsal,
        optimizer=optimizer,
        num_outputs=4,
        batch_size=4,
        accumulate=accumulate,
        epochs=2,
    )
    trainer.run()
    if rehearsal is not None:
        rehearsal.close()
    return [[ids.tolist() for ids, _ in recording.batches], weights(trainer.network), trainer.steps]


def train_in_one_process(batches_of_ranks, steps_of_batches, optimizer):
    """The same rows, all ranks' together, one plain step on their mean."""
    train = small_dataset(SAMPLES).train
    network = make_network(4, 0)
    kind = {"sgd": lambda p: torch.optim.SGD(p, lr=optimizer.lr, momentum=optimizer.momentum)}
    kind["adam"] = lambda p: torch.optim.Adam(p, lr=optimizer.lr)
    optim = kind[optimizer.name](network.parameters())
    for first, last in steps_of_batches:
        ids = [i for batches in batches_of_ranks for batch in batches[first:last] for i in batch]
        rows = train.gather(np.array(ids))
        F.cross_entropy(network(preprocess().evaluate(rows["image"])), rows["label"]).backward()
        optim.step()
        optim.zero_grad()
    return weights(network)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_with_uneven_rows_equal_one_process(world_size):
    for case, results in run_cases(train_on_ranks, world_size, CASES).items():
        _, accumulate, optimizer = CASES[case]
        batches = [result[0] for result in results]
        sizes = [[len(batch) for batch in rank] for rank in batches]
        assert any(len(set(column)) > 1 for column in zip(*sizes, strict=True)), case  # it is what it claims to be
        expected = train_in_one_process(batches, list(steps(len(batches[0]), accumulate)), optimizer)
        for result in results:
            close(result[1], expected)
        close(results[0][1], results[1][1], tolerance=0)


def steps(num_batches, accumulate):
    """First and last batch of each optimisation step: 2 tasks of 2 epochs, each with equally many batches."""
    per_epoch, rest = divmod(num_batches, 4)
    assert rest == 0
    for start in range(0, num_batches, per_epoch):
        for first in range(start, start + per_epoch, accumulate):
            yield first, min(first + accumulate, start + per_epoch)


def train_growing(rank, world_size, batch_size):
    trainer = small_trainer(
        small_dataset(40), Recording(base="finetune"), world=World(rank, world_size), batch_size=batch_size, epochs=2
    )
    trainer.run()
    return weights(trainer.network)


def test_a_head_that_grows_on_two_ranks_is_wrapped_anew():
    """DDP over a replaced head: the ranks stay equal, which they would not if its gradients were not averaged."""
    left, right = run_ranks(train_growing, 2, 4)
    assert len(left["head.bias"]) == 4
    close(left, right, tolerance=0)


def test_accumulated_batches_equal_one_large_batch():
    def train(batch_size, accumulate):
        trainer = small_trainer(
            small_dataset(43), Recording(base="finetune"), batch_size=batch_size, accumulate=accumulate, epochs=2
        )
        trainer.run()
        return weights(trainer.network), trainer.steps

    large, steps_of_large = train(8, 1)
    accumulated, steps_of_accumulated = train(4, 2)
    assert steps_of_large == steps_of_accumulated
    close(large, accumulated)
