"""The network, its optimizer and precision: growing heads keep the optimizer's state of old rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ranks import collect_ranks
from training.parts import SHAPE, make_network

from drb.distributed.world import World
from drb.training import Adam, AdamW, OptimizerBuilder, Sgd
from drb.training.learner import Learner
from drb.training.models import build_model

IMAGES = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def step(learner, labels=LABELS):
    value = learner.backward(lambda: F.cross_entropy(learner.forward(IMAGES), labels))
    learner.step()
    return value


@pytest.mark.parametrize(
    ("settings", "moments"),
    [
        (Sgd(momentum=0.9), ["momentum_buffer"]),
        (Adam(lr=0.01), ["exp_avg", "exp_avg_sq"]),
        (AdamW(lr=0.01), ["exp_avg", "exp_avg_sq"]),
    ],
    ids=lambda value: value.name if isinstance(value, OptimizerBuilder) else "",
)
def test_old_rows_keep_their_state_and_new_rows_start_at_zero(settings, moments):
    learner = Learner(make_network(2, 0), settings, World())
    step(learner)
    head, body = learner.network.head.weight, learner.network.body[1].weight
    old = {key: learner.optimizer.state[head][key].clone() for key in moments}
    old_body = {key: value.clone() for key, value in learner.optimizer.state[body].items()}
    learner.grow(5, seed=1)
    grown = learner.optimizer.state[learner.network.head.weight]
    for key in moments:
        assert torch.equal(grown[key][:2], old[key])
        assert not grown[key][2:].any()
    if "step" in grown:
        assert grown["step"] == 1
    for key, value in learner.optimizer.state[body].items():
        assert torch.equal(value, old_body[key])
    step(learner, LABELS + 3)  # and it goes on from there
    assert learner.optimizer.state[learner.network.head.weight][moments[0]][2:].any()


def test_growing_to_what_is_there_changes_nothing():
    learner = Learner(make_network(3, 0), Sgd(), World())
    optimizer = learner.optimizer
    learner.grow(2, seed=1)
    assert learner.optimizer is optimizer


def test_gradients_are_clipped_to_the_norm():
    learner = Learner(make_network(2, 0), Sgd(lr=1.0), World(), clip_norm=0.01)
    before = [p.detach().clone() for p in learner.network.parameters()]
    step(learner)
    change = torch.cat([(a - b).flatten() for a, b in zip(before, learner.network.parameters(), strict=True)])
    assert change.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_bf16_autocast_trains_on_the_cpu():
    learner = Learner(make_network(2, 0), Sgd(), World(), precision="bf16")
    values = [step(learner).item() for _ in range(20)]
    assert values[-1] < values[0]
    assert learner.network.head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"precision": "fp16"}, "precision=fp16 needs CUDA"), ({"sync_bn": True}, "sync_bn=true needs CUDA")],
)
def test_what_needs_a_gpu_says_so(settings, message):
    with pytest.raises(ValueError, match=message):
        Learner(make_network(2, 0), Sgd(), World(), **settings)


def test_channels_last_keeps_the_result():
    network = build_model("cnn", (1, 8, 8), 2, width=4, hidden=8)
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    learner = Learner(network, Sgd(), World(), channels_last=True)
    torch.testing.assert_close(learner.network(images.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_scales_the_loss_on_a_gpu():
    world = World(device=torch.device("cuda", 0))
    learner = Learner(make_network(2, 0), Sgd(), world, precision="fp16", clip_norm=1.0)
    images, labels = IMAGES.cuda(), LABELS.cuda()
    values = []
    for _ in range(20):
        values.append(learner.backward(lambda: F.cross_entropy(learner.forward(images), labels)).item())
        learner.step()
    assert values[-1] < values[0]


def sharded(rank, world_size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network = build_model("mlp", SHAPE, 2, seed=0, hidden=[8])
    fully_shard(network, mesh=init_device_mesh("cpu", (world_size,)))
    Learner(network, Sgd(), World(rank, world_size))


def test_a_network_that_is_sharded_over_ranks_is_refused():
    _, failures = collect_ranks(sharded, 2)
    assert failures.keys() == {0, 1}
    assert all("sharded over ranks (FSDP2)" in failure for failure in failures.values())
