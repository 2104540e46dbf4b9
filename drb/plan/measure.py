"""Times training steps with and without rehearsal on the ranks of a launcher, in turn, on noise shaped like the data.

Three kinds of step share one network, wrapped in DDP, and one optimizer:

    smaller     plain DDP on b rows
    plain       plain DDP on b + r rows
    rehearsal   b rows that `Rehearsal.extend` makes b + r

They take turns in blocks of a few steps. A ratio compares two blocks of the same turn, so that a machine that slows
down slows both. Every number is that of the slowest rank.

Letters: b rows of a minibatch, r exemplars, both per rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from drb.data.datasets import Dataset
from drb.distributed.agreement import gather_json
from drb.distributed.world import World
from drb.machine import node_name
from drb.program.build import build_network, build_preprocess, build_rehearsal
from drb.program.config import TrainConfig
from drb.program.config.rehearsal import exemplars_per_rank
from drb.program.config.variants import build_variant
from drb.rehearsal.auto_setting import AutoSetting
from drb.rehearsal.rehearsal import Rehearsal
from drb.types import Minibatch

KINDS = ("smaller", "plain", "rehearsal")
POOL = 8  # minibatches of noise, used in turn
BLOCK_S = 0.25  # of a block, if steps are shorter
MOST_STORED_BYTES, MOST_FILLING_STEPS = 256 << 20, 300  # that the buffers are filled with: more than a cache holds
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured. Seconds are medians over the blocks, per step.

    Attributes:
        rows, exemplars: b and r, per rank.
        step_s: seconds of a step, by kind (see the module).
        cost: rehearsal ÷ plain - 1, and its quartiles over the turns.
        round_s: of the rounds that serve one step. wait_s: how long a step waits for them.
        inline: whether rounds run on the training thread.
        bytes_per_rank: that the rehearsal holds at most.
    """

    ranks: int
    nodes: int
    rows: int
    exemplars: int
    interval: int
    exchange: str
    inline: bool
    step_s: dict[str, float]
    cost: float
    cost_quartiles: tuple[float, float]
    round_s: float
    wait_s: float
    bytes_per_rank: int

    @property
    def is_overlapped(self) -> bool:
        """Whether training waits for rounds at most 2 % of a step."""
        return not self.inline and self.wait_s <= 0.02 * self.step_s["plain"]


def measure(config: TrainConfig, dataset: Dataset, world: World, seconds: float) -> Measurement:
    """Measure for about so many seconds, after a warm-up. Collective."""
    rows = config.training.rows_per_rank(world.world_size)
    exemplars = exemplars_per_rank(config.rehearsal, config.training, world.world_size)
    count = exemplars if isinstance(exemplars, int) else AutoSetting.parse(exemplars).limit or rows
    settings = dataclasses.replace(
        config.rehearsal, exemplars=count, exemplars_scope="rank", min_fill=1, max_age=None, stratum="label"
    )
    training, noise = TrainingStep(config, dataset, world), Noise(dataset, world)
    plain, smaller = noise.minibatches(rows + count), noise.minibatches(rows)
    with build_rehearsal(dataclasses.replace(config, rehearsal=settings), world, dataset) as rehearsal:
        _fill(rehearsal, lambda: noise.fresh(next(smaller)))
        steps: dict[str, Callable[[], None]] = {
            "smaller": lambda: training.step(next(smaller)),
            "plain": lambda: training.step(next(plain)),
            "rehearsal": lambda: training.step(rehearsal.extend(noise.fresh(next(smaller)))),
        }
        times, spent = _take_turns(steps, rehearsal, world, seconds)
        stats = rehearsal.stats()
    times = _slowest(times, world)
    ratios = [a / b - 1 for a, b in zip(times["rehearsal"], times["plain"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    nodes = _everyones(node_name(), world)
    return Measurement(
        ranks=world.world_size,
        nodes=len(set(nodes)),
        rows=rows,
        exemplars=count,
        interval=stats["interval"],
        exchange=stats["exchange"],
        inline=not stats["asynchronous"],
        step_s={kind: statistics.median(times[kind]) for kind in KINDS},
        cost=statistics.median(ratios),
        cost_quartiles=(low, high),
        round_s=max(_everyones(spent["round_seconds"], world)),
        wait_s=max(_everyones(spent["wait_seconds"], world)),
        bytes_per_rank=max(_everyones(stats["bytes_per_rank"], world)),
    )


class TrainingStep:
    """Forward, backward and optimizer step of the configured network. The loss is a stand-in that costs nothing."""

    def __init__(self, config: TrainConfig, dataset: Dataset, world: World) -> None:
        network = build_network(config, dataset, dataset.num_classes, 0).to(world.device).train()
        self._format = torch.channels_last if config.training.channels_last else torch.contiguous_format
        network = network.to(memory_format=self._format)
        self._optimizer = build_variant("optimizer", config.optimizer).for_network(network, world.world_size)
        self._forward: Callable[[Tensor], Tensor] = network
        if world.world_size > 1:
            devices = [world.device] if world.device.type == "cuda" else None
            self._forward = DistributedDataParallel(network, devices, gradient_as_bucket_view=True)
        self._preprocess = build_preprocess(config, dataset)
        self._device, self._generator = world.device, torch.Generator(world.device)
        self._dtype = _AUTOCAST.get(config.training.precision)

    def step(self, batch: Minibatch) -> None:
        images = batch["image"].to(self._device, non_blocking=True)
        images = self._preprocess.train(images, self._generator)
        if images.dim() == 4:
            images = images.contiguous(memory_format=self._format)
        with torch.autocast(self._device.type, self._dtype) if self._dtype else contextlib.nullcontext():
            loss = self._forward(images).square().mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class Noise:
    """Minibatches of noise in the shape and dtype of a data set, and ids that do not repeat."""

    def __init__(self, dataset: Dataset, world: World) -> None:
        self._dataset, self._next_id = dataset, world.rank << 40
        self._pin = world.device.type == "cuda"

    def minibatches(self, rows: int) -> itertools.cycle[Minibatch]:
        """An endless supply of minibatches, of which a few are made."""
        return itertools.cycle([self._minibatch(rows, seed) for seed in range(POOL)])

    def fresh(self, batch: Minibatch) -> Minibatch:
        """The minibatch, of samples that were not seen before."""
        first, self._next_id = self._next_id, self._next_id + len(batch["label"])
        return batch | {"sample_id": torch.arange(first, self._next_id)}

    def _minibatch(self, rows: int, seed: int) -> Minibatch:
        generator, dtype = torch.Generator().manual_seed(seed), self._dataset.dtype
        images = torch.randint(0, 256, (rows, *self._dataset.image_shape), generator=generator, dtype=torch.uint8)
        images = images if dtype == torch.uint8 else (images / 255).to(dtype)
        labels = torch.randint(0, self._dataset.num_classes, (rows,), generator=generator)
        return {"image": images.pin_memory() if self._pin else images, "label": labels}


def _fill(rehearsal: Rehearsal, minibatch: Callable[[], Minibatch]) -> None:
    """Fill the buffers, or as much of them as takes a moment. Collective."""
    first = minibatch()
    rehearsal.extend(first)
    rows, row_bytes = len(first["label"]), first["image"][0].nbytes
    capacity = rehearsal.stats()["capacity_total"]  # alike on all ranks, as the number of steps must be
    for _ in range(min(capacity // rows, MOST_STORED_BYTES // (rows * row_bytes), MOST_FILLING_STEPS)):
        rehearsal.extend(minibatch())


def _take_turns(
    steps: dict[str, Callable[[], None]], rehearsal: Rehearsal, world: World, seconds: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds per step by kind and turn, and what the rehearsal's statistics counted per step. Collective."""
    for step in steps.values():
        step()  # allocates memory, chooses algorithms, lets DDP order its buckets
    longest = max(_everyones(max(_block(step, 1, world) for step in steps.values()), world))
    block = max(2, round(BLOCK_S / longest))
    turns = max(3, round(seconds / (longest * (block + 1) * len(steps))))
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    spent = dict.fromkeys(("round_seconds", "wait_seconds"), 0.0)
    for _ in range(turns):
        for kind, step in steps.items():
            step()  # leaves a round in flight, as the step before a step does
            before = rehearsal.stats()
            times[kind].append(_block(step, block, world))
            after = rehearsal.stats()
            for name in spent:
                spent[name] += (after[name] - before[name]) / (turns * block)
    return times, spent


def _block(step: Callable[[], None], count: int, world: World) -> float:
    """Seconds per step of so many steps, which all ranks start together."""
    _synchronise(world)
    start = time.perf_counter()
    for _ in range(count):
        step()
    _synchronise(world)
    return (time.perf_counter() - start) / count


def _synchronise(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    if world.world_size > 1:
        dist.barrier()


def _slowest(times: dict[str, list[float]], world: World) -> dict[str, list[float]]:
    """The largest of all ranks' values, one by one. Collective."""
    ranks = _everyones(times, world)
    return {kind: [max(values) for values in zip(*(rank[kind] for rank in ranks), strict=True)] for kind in times}


def _everyones(value: Any, world: World) -> list[Any]:
    """The value of every rank, by rank. Collective."""
    return gather_json(value) if world.world_size > 1 else [value]
