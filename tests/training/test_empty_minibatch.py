"""A rank without rows in a step (the end of an epoch on other ranks) changes nothing but its own share of the work."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from checkpoint.runs import SmallBatchNorm
from ranks import run_ranks

from drb.distributed.world import World
from drb.training import Sgd
from drb.training.augment import Preprocess
from drb.training.learner import Learner
from drb.training.models import Network, build_model
from drb.training.models.network import GrowingHead

SHAPES = {"mlp": (1, 6, 6), "cnn": (1, 12, 12), "resnet18": (3, 32, 32), "batch_norm": (1, 6, 6)}
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def make_learner(model: str, world: World) -> Learner:
    torch.manual_seed(3)
    network = (
        Network(SmallBatchNorm(), GrowingHead(16, 2, seed=1))
        if model == "batch_norm"
        else build_model(model, SHAPES[model], 2, seed=1)
    )
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return Learner(network, Sgd(lr=0.1, momentum=0.9), world, channels_last=model == "resnet18")


def images_of(model: str) -> torch.Tensor:
    return (torch.rand(6, *SHAPES[model], generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)


def two_steps(learner: Learner, model: str, world_size: int, rows: slice) -> dict[str, torch.Tensor]:
    """One of one batch, one of two accumulated ones; in each this rank has these rows of all six."""
    preprocess = Preprocess(mean=[0.5] * SHAPES[model][0], std=[0.3] * SHAPES[model][0], crop_padding=1, flip=True)
    preprocess.train(images_of(model)[rows], torch.Generator().manual_seed(1))  # must not fail
    images = preprocess.evaluate(images_of(model)[rows])
    learner.network.train()
    for batches in (1, 2):
        for batch in range(batches):
            weight = world_size / (6 * batches)
            learner.backward(
                lambda: F.cross_entropy(learner.forward(images), LABELS[rows], reduction="sum") * weight,  # noqa: B023
                more=batch < batches - 1,
            )
        learner.step()
    return {name: value.detach().clone() for name, value in learner.network.state_dict().items()}


def on_a_rank(rank, world_size):
    """By model: the running statistics before, and everything after."""
    states = {}
    for model in SHAPES:
        learner = make_learner(model, World(rank, world_size))
        before = {name: value.clone().numpy() for name, value in learner.statistics().items()}
        after = two_steps(learner, model, world_size, slice(6) if rank == 0 else slice(0))
        states[model] = before, {name: value.numpy() for name, value in after.items()}
    return states


def test_gradients_are_those_of_the_rows_there_are():
    ranks = run_ranks(on_a_rank, 2, timeout=110)
    for model in SHAPES:
        alone = two_steps(make_learner(model, World()), model, 1, slice(6))
        for before, state in (rank[model] for rank in ranks):
            for name, value in alone.items():
                mine = torch.from_numpy(state[name])
                assert torch.isfinite(mine).all()
                if name not in before:
                    torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-5)
        before, state = ranks[1][model]  # which saw nothing
        assert all((state[name] == before[name]).all() for name in before if "num_batches" not in name)
