"""Accuracy of a network on one test set, each sample counted exactly once over all ranks.

Rank k evaluates rows k, k + W, k + 2W … of the source: nothing is padded or shown twice (DistributedSampler does
both). Sums, not means, are added over the ranks, in one float64 all_reduce. The network is the bare module: ranks
may run different numbers of batches, and a DDP wrapper's buffer broadcast would then hang.

Letters: B rows of a batch, C outputs of the head, W ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drb.data.datasets import Source, erased_rows
from drb.data.prefetch import gather_ahead
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.types import Int64Array, Minibatch


@dataclass(frozen=True)
class Accuracy:
    """Means over a whole test set; accuracies are fractions.

    top5 counts the true class among the min(5, C) likeliest; masked_top1 lets only the given classes win.
    loss is the mean cross-entropy: infinite if the head has no output for some sample's class yet.
    """

    top1: float
    top5: float
    masked_top1: float
    loss: float
    count: int


def evaluate(
    network: nn.Module,
    source: Source,
    *,
    preprocess: Preprocess,
    device: torch.device,
    batch_size: int,
    world: World,
    classes: Sequence[int] | None = None,
) -> Accuracy:
    """Evaluate in eval mode; collective: every rank must call it with the same source.

    Args:
        network: [B, C, H, W] -> logits [B, C]; every module's train/eval mode is restored afterwards.
        source: the whole test set, the same on every rank.
        batch_size: rows at a time on this rank.
        classes: for masked_top1; None lets all classes win.
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
    num_classes = 1 + int(np.max(source.labels))
    own_rows = _present_rows(source)[world.rank :: world.world_size]
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    with _eval_mode(bare), torch.inference_mode():
        for minibatch in _gathered(source, own_rows, batch_size):
            images = preprocess.evaluate(minibatch["image"].to(device, non_blocking=True))
            labels = minibatch["label"].to(device, non_blocking=True)
            sums += _batch_sums(bare(images).float(), labels, num_classes, classes)
    top1, top5, masked_top1, loss, count = _sum_over_ranks(sums, world).tolist()
    return Accuracy(top1 / count, top5 / count, masked_top1 / count, loss / count, int(count))


def _present_rows(source: Source) -> Int64Array:
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


def _gathered(source: Source, rows: Int64Array, batch_size: int) -> Iterator[Minibatch]:
    parts = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    return gather_ahead(source, parts)


def _batch_sums(logits: Tensor, labels: Tensor, num_classes: int, classes: Sequence[int] | None) -> Tensor:
    """Correct at 1, correct at min(5, C), correct with only `classes` allowed, summed loss, rows: float64 [5]."""
    num_outputs = logits.shape[1]
    if num_outputs < num_classes:  # a class that the head does not know yet cannot win and has probability 0
        logits = F.pad(logits, (0, num_classes - num_outputs), value=-torch.inf)
    best = logits.topk(min(5, num_outputs), dim=1).indices
    hits = best == labels[:, None]
    masked = hits[:, 0]
    if classes is not None:
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[[c for c in classes if c < logits.shape[1]]] = False
        masked = logits.masked_fill(others, -torch.inf).argmax(dim=1) == labels
    loss = F.cross_entropy(logits, labels, reduction="sum")
    counts = [hits[:, 0].sum(), hits.any(dim=1).sum(), masked.sum(), loss, torch.ones_like(labels).sum()]
    return torch.stack([value.double() for value in counts])


def _sum_over_ranks(sums: Tensor, world: World) -> Tensor:
    """float64 [5] summed over the default group, on a device that its backend serves."""
    if world.world_size == 1:
        return sums
    served = [entry.split(":")[0] for entry in dist.get_backend_config().split(",")]
    total = sums.clone() if sums.device.type in served else sums.to(served[0])
    dist.all_reduce(total)
    return total


@contextlib.contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """eval() inside; afterwards every submodule has its own mode back (some may have been frozen in eval mode)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
