"""Scores of a network on one test set, each sample counted exactly once over all ranks.

Rank k evaluates rows k, k + W, k + 2W … of the source: nothing is padded or shown twice (DistributedSampler does
both). Sums, not means, are added over the ranks, in one float64 all_reduce. The network is the bare module: ranks
may run different numbers of batches, and a DDP wrapper's buffer broadcast would then hang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drb.data.datasets import Source, erased_rows
from drb.data.pinned import gatherer, memory_for
from drb.data.prefetch import gather_ahead
from drb.distributed.reduction import sum_over_ranks
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.method.structure import map_tensors
from drb.training.objectives.objective import Objective
from drb.types import Int64Array, Minibatch


def evaluate(
    network: nn.Module,
    source: Source,
    objective: Objective,
    *,
    preprocess: Preprocess,
    device: torch.device,
    batch_size: int,
    world: World,
    classes: Sequence[int] | None = None,
    predict: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, float]:
    """Evaluate in eval mode; collective: every rank must call it with the same source.

    Args:
        network: every module's train/eval mode is restored afterwards.
        source: the whole test set, the same on every rank.
        batch_size: rows at a time on this rank.
        classes: those of the task, for scores among them; None lets all classes win.
        predict: gives what is scored for a network and its inputs; by default the network's outputs.
    Returns:
        The value of each of the objective's metrics.
    Raises:
        ValueError: an empty source, no classes, or a batch size below 1.
    """
    if len(source) == 0:
        raise ValueError(
            "there is nothing to evaluate: the test set is empty; give every task at least one test sample"
        )
    if batch_size < 1:
        raise ValueError(f"the evaluation's batch_size must be at least 1, got {batch_size}")
    if classes is not None and not classes:
        raise ValueError("classes must name at least one class or be None for all, got an empty sequence")
    bare = network.module if isinstance(network, DistributedDataParallel) else network
    own_rows = present_rows(source)[world.rank :: world.world_size]
    score = objective.scorer(source, classes)
    sums: dict[str, Tensor] = {}
    with eval_mode(bare), torch.inference_mode():
        for minibatch in _gathered(source, own_rows, batch_size, device):
            moved: Minibatch = {name: field.to(device, non_blocking=True) for name, field in minibatch.items()}
            inputs = preprocess.evaluate(objective.inputs(moved))
            outputs = bare(inputs) if predict is None else predict(bare, inputs)
            for name, value in score(map_tensors(Tensor.float, outputs), moved).items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
    return objective.values(dict(zip(sums, sum_over_ranks(list(sums.values()), world), strict=True)))


def present_rows(source: Source) -> Int64Array:
    """All samples but those that were erased from the source's cache.

    Raises:
        ValueError: that leaves none.
    """
    erased = erased_rows(source)
    if erased is None:
        return np.arange(len(source))
    if erased.all():
        raise ValueError(f"there is nothing to evaluate: all {len(source)} samples of the test set have been erased")
    return np.flatnonzero(~erased)


def _gathered(source: Source, rows: Int64Array, batch_size: int, device: torch.device) -> Iterator[Minibatch]:
    starts = range(0, max(1, len(rows)), batch_size)  # one batch at least, which shows what is summed
    parts = (rows[start : start + batch_size] for start in starts)
    return gather_ahead(gatherer(source, memory_for(device)), parts)


@contextlib.contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """eval() inside; afterwards every submodule has its own mode back (some may have been frozen in eval mode)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
