"""How long a training step takes as a function of r: the configured network on noise, with DDP over all ranks."""

from __future__ import annotations

import torch

from drb.buffer.record import RecordSpec
from drb.data.datasets import Dataset
from drb.distributed.world import World
from drb.exchange import Peers
from drb.plan.probe import random_minibatch
from drb.plan.timing import timed
from drb.program.config import TrainConfig
from drb.program.run import build_network, build_preprocess
from drb.rehearsal.auto_exemplars import Line
from drb.training.learner import Learner
from drb.training.strategies import build_strategy
from drb.types import Minibatch


def measure_step(
    config: TrainConfig,
    dataset: Dataset,
    spec: RecordSpec,
    world: World,
    peers: Peers | None,
    exemplars: int,
    seconds: float,
) -> Line:
    """From steps on b + 1 rows and on b + r, or half as many again if r is less. Collective; of the slowest rank."""
    rows = config.training.rows_per_rank(world.world_size)
    network = build_network(config, dataset, dataset.num_classes, 0)
    training, preprocess = config.training, build_preprocess(config, dataset)
    learner = Learner(
        network,
        config.optimizer,
        world,
        precision=training.precision,
        channels_last=training.channels_last,
        clip_norm=training.clip_norm,
        sync_bn=training.sync_bn,
    )
    network.train()
    generator = torch.Generator(world.device)
    loss = build_strategy(config.strategy.name, label_smoothing=config.strategy.label_smoothing).loss

    def step(batch: Minibatch) -> None:
        moved = {name: field.to(world.device, non_blocking=True) for name, field in batch.items()}
        images = preprocess.train(moved["image"], generator)
        if training.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        learner.backward(images, moved, loss, 1.0)
        learner.step()
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)

    points = []
    for more in (1, max(2, exemplars, rows // 2)):
        batch = random_minibatch(spec, rows + more)
        batch["rehearsed"] = torch.arange(rows + more) >= rows
        points.append((more, timed(lambda batch=batch: step(batch), seconds / 2, peers)[0]))  # type: ignore[misc]
    return Line.through(points[0], points[1])
