"""Loads the data on all ranks, which may take one node much longer than another: it may have images to decode."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from drb.agreement import raise_on_all_ranks
from drb.datasets import Dataset
from drb.world import World

_PATIENCE = timedelta(days=7)  # a dead peer is noticed at once


def load_on_all_ranks(load: Callable[[], Dataset], world: World) -> Dataset:
    """What `load` gives, once every rank has it. Collective.

    Raises:
        ValueError: some rank's; on all ranks.
    """
    if world.world_size == 1:
        return load()
    room = dist.new_group(backend="gloo", timeout=_PATIENCE)  # before the ranks part
    assert isinstance(room, dist.ProcessGroup)
    dataset, error = None, None
    try:
        dataset = load()
    except ValueError as failure:
        error = str(failure)
    raise_on_all_ranks("drb/data", error, world, room)
    dist.destroy_process_group(room)
    assert dataset is not None
    return dataset
