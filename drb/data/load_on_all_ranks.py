"""Loads the data on all ranks, which may take one node much longer than another: it may have images to decode."""

from __future__ import annotations

from collections.abc import Callable

from drb.data.datasets import Dataset
from drb.distributed.agreement import raise_on_all_ranks
from drb.distributed.waiting import PatientBarrier
from drb.distributed.world import World


def load_on_all_ranks(load: Callable[[], Dataset], world: World, timeout_s: float) -> Dataset:
    """What `load` gives, once every rank has it. Collective.

    Args:
        timeout_s: how long a rank may go without a heartbeat.
    Raises:
        ValueError: some rank's; on all ranks. PeerError: a rank died or stalled.
    """
    if world.world_size == 1:
        return load()
    barrier = PatientBarrier(world.world_size, timeout_s)  # collective, so before a rank can fail
    dataset, error = None, None
    try:
        dataset = load()
    except ValueError as failure:
        error = str(failure)
    barrier.wait("data")
    raise_on_all_ranks("drb/data", error, world, barrier.group)
    assert dataset is not None
    return dataset
