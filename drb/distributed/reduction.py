"""Sums over ranks, rows of all ranks, and values of one rank for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from drb.distributed.agreement import gather_json
from drb.distributed.world import World


def sum_over_ranks(tensors: Sequence[Tensor], world: World) -> list[Tensor]:
    """Each tensor's sum over all ranks, in one message. Collective.

    The tensors have one dtype. They may lie on a device that the group's backend does not serve.
    """
    if world.world_size == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    total = _where_served(flat)
    dist.all_reduce(total)
    parts = total.to(flat.device).split_with_sizes([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def values_of_first_rank(tensor: Tensor, world: World) -> Tensor:
    """Rank 0's values on every rank; shapes and dtypes are alike. Collective."""
    if world.world_size == 1:
        return tensor
    values = _where_served(tensor.contiguous().clone())
    dist.broadcast(values, 0)
    return values.to(tensor.device)


def gather_rows(rows: Tensor, world: World) -> Tensor:
    """Every rank's rows, one rank's behind the other's; ranks may have different numbers of them. Collective."""
    if world.world_size == 1:
        return rows
    own, counts = _where_served(rows), gather_json(len(rows))
    padded = own.new_zeros((max(counts, default=0), *own.shape[1:]))
    if not padded.numel():
        return rows.new_zeros((sum(counts), *rows.shape[1:]))
    padded[: len(own)] = own
    memory = padded.reshape(-1).view(torch.uint8)  # of any dtype
    of_ranks = [torch.empty_like(memory) for _ in counts]
    dist.all_gather(of_ranks, memory)
    each = [given.view(own.dtype).reshape(padded.shape)[:n] for given, n in zip(of_ranks, counts, strict=True)]
    return torch.cat(each).to(rows.device)


def _where_served(tensor: Tensor) -> Tensor:
    """The tensor on a device that the group's backend serves: itself, if that is its own."""
    served = [entry.split(":")[0] for entry in dist.get_backend_config().split(",")]
    return tensor if tensor.device.type in served else tensor.to(served[0])
