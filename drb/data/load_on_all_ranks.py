"""Loads the data on all ranks, which may take one node much longer than another: it may have images to decode."""

from __future__ import annotations

import json
from collections.abc import Callable

from drb.data.datasets import Dataset
from drb.data.identity import Identity
from drb.distributed.agreement import raise_on_all_ranks, value_of_main
from drb.distributed.waiting import PatientBarrier
from drb.distributed.world import World


def load_on_all_ranks(load: Callable[[], Dataset], world: World, timeout_s: float) -> Dataset:
    """What `load` gives, once every rank has it. Collective.

    Args:
        timeout_s: how long a rank may go without a heartbeat.
    Raises:
        ValueError: some rank's, or that the ranks' data differs; on all ranks. PeerError: a rank died or stalled.
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
    raise_on_all_ranks("drb/same_data", _difference_to_main(dataset, world), world, barrier.group)
    return dataset


def _difference_to_main(dataset: Dataset, world: World) -> str | None:
    """What is other about this rank's data than about rank 0's; None if nothing is. Collective."""
    main = Identity.from_json(json.loads(value_of_main("data_identity", json.dumps(dataset.identity.to_json()), world)))
    changes = dataset.identity.changes_since(main, "rank 0 has")
    if not changes:
        return None
    return f"the data of rank {world.rank} is not that of rank 0: {'; '.join(changes)}; give all nodes the same data"
