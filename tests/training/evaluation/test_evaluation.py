"""Every test sample counts once, whatever the number of ranks, and the numbers are the definition's."""

import math

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drb.distributed.world import World
from drb.training.evaluation.evaluate import evaluate
from drb.training.objectives import Classification

NUM_CLASSES = 7
CPU = torch.device("cpu")


class Columns:
    """A source whose images are the logits; remembers which rows were asked for."""

    def __init__(self, logits, labels):
        self.logits, self.labels = logits, np.asarray(labels, dtype=np.int64)
        self.gathered = []

    def __len__(self):
        return len(self.labels)

    def gather(self, indices):
        self.gathered.extend(indices.tolist())
        return {"image": self.logits[indices], "label": torch.from_numpy(self.labels[indices])}


class AsTheyAre:
    def evaluate(self, images):
        return images


class Echo(nn.Module):
    """Returns its input as logits; its mode and the modes seen are visible."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(NUM_CLASSES, affine=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        return x * self.scale


def columns(num_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_samples, NUM_CLASSES, generator=generator)
    return Columns(logits, torch.randint(NUM_CLASSES, (num_samples,), generator=generator).numpy())


ALONE = World()


def run(source, world=ALONE, network=None, batch_size=4, classes=None) -> dict[str, float]:
    network = Echo() if network is None else network
    return evaluate(
        network,
        source,
        Classification(),
        preprocess=AsTheyAre(),
        device=CPU,
        batch_size=batch_size,
        world=world,
        classes=classes,
    )


def expected(source, classes=None):
    labels = torch.from_numpy(source.labels)
    order = source.logits.argsort(dim=1, descending=True)
    allowed = source.logits.clone()
    if classes is not None:
        allowed[:, [c for c in range(NUM_CLASSES) if c not in classes]] = -torch.inf
    return (
        (order[:, 0] == labels).double().mean().item(),
        (order[:, :5] == labels[:, None]).any(dim=1).double().mean().item(),
        (allowed.argmax(dim=1) == labels).double().mean().item(),
        nn.functional.cross_entropy(source.logits.double(), labels).item(),
    )


@pytest.mark.parametrize("classes", [None, (0, 2, 5)])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_numbers_are_those_of_the_definition(batch_size, classes):
    source = columns(23)
    result = run(source, batch_size=batch_size, classes=classes)
    assert tuple(result.values()) == pytest.approx(expected(source, classes), rel=1e-6)


def test_masking_lets_only_the_given_classes_win():
    source = Columns(torch.tensor([[5.0, 1.0, 2.0], [5.0, 2.0, 1.0]]), [2, 2])
    result = run(source, network=nn.Identity(), classes=[1, 2])
    assert (result["accuracy"], result["masked"]) == (0.0, 0.5)


def test_top5_of_a_head_with_three_outputs_is_top3():
    assert run(Columns(torch.tensor([[3.0, 2.0, 1.0]]), [2]), network=nn.Identity())["top5"] == 1.0


def test_a_class_that_the_head_does_not_know_yet_is_wrong_and_infinitely_unlikely():
    source = Columns(torch.tensor([[3.0, 2.0], [3.0, 2.0]]), [0, 4])
    result = run(source, network=nn.Identity(), classes=[0, 4])
    assert (result["accuracy"], result["top5"], result["masked"]) == (0.5, 0.5, 0.5)
    assert math.isinf(result["loss"])


def test_modes_are_eval_without_gradients_and_every_submodule_gets_its_own_back():
    network = Echo()
    network.norm.eval()  # frozen statistics
    run(columns(9), network=network)
    assert set(network.modes) == {(False, True)}
    assert (network.training, network.norm.training) == (True, False)


def test_modes_come_back_after_an_error():
    network = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        run(columns(2), network=network)
    assert network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": Columns(torch.zeros(0, 3), [])}, "the test set is empty"),
        ({"source": columns(3), "batch_size": 0}, "at least 1, got 0"),
        ({"source": columns(3), "classes": ()}, "at least one class"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**arguments)


def evaluate_shard(rank, world_size, num_samples):
    source = columns(num_samples)
    network = DistributedDataParallel(Echo())
    result = run(source, World(rank=rank, world_size=world_size), network, classes=(1, 3))
    return source.gathered, result


@pytest.mark.parametrize(("world_size", "num_samples"), [(2, 23), (3, 22), (3, 2)])
def test_ranks_share_the_rows_without_padding_and_agree_on_the_sum(world_size, num_samples):
    shards, results = zip(*run_ranks(evaluate_shard, world_size, num_samples), strict=True)
    assert sorted(row for shard in shards for row in shard) == list(range(num_samples))
    assert all(result == results[0] for result in results)
    alone = run(columns(num_samples), classes=(1, 3))
    assert results[0] == pytest.approx(alone, rel=1e-6)
