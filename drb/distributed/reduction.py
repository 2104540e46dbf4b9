"""Sums over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from drb.distributed.world import World


def sum_over_ranks(tensors: Sequence[Tensor], world: World) -> list[Tensor]:
    """Each tensor's sum over all ranks, in one message. Collective.

    The tensors have one dtype. They may lie on a device that the group's backend does not serve.
    """
    if world.world_size == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    served = [entry.split(":")[0] for entry in dist.get_backend_config().split(",")]
    total = flat if flat.device.type in served else flat.to(served[0])
    dist.all_reduce(total)
    parts = total.to(flat.device).split_with_sizes([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
