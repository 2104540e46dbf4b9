"""Opens process groups that are named by their members.

torch names a group by how many this process has made before. Ranks that have made different numbers of them would wait
for each other under different names until the timeout. Here the number is how many groups these members have opened
together, which they count alike, and torch's own count stays as it is. The ranks compare the name through the store
before they use it.
"""

from __future__ import annotations

import json
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from drb.distributed.failure import FailureBoard
from drb.distributed.heartbeat import default_store

_POLL_S = (0.005, 0.1)  # at first, and at most
_FIRST_NUMBER = 1_000_000_000  # torch's own count begins at 0
_opened: weakref.WeakKeyDictionary[Any, Counter[tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""How many groups this process has opened, by the store of the run and the members."""


def open_group(ranks: Sequence[int], timeout_s: float, *, backend: str = "gloo") -> dist.ProcessGroup:
    """A new process group. Collective over its ranks.

    Args:
        ranks: the global ranks that are its members.
        timeout_s: of every operation, and how long to wait for the other ranks here.
    Raises:
        ValueError: torch names groups in another way, and the ranks have made different numbers of them.
        PeerError: a rank did not come.
    """
    store, members, world = default_store(), tuple(ranks), distributed_c10d._world
    opened = _opened.setdefault(store, Counter())
    opened[members] += 1
    number, count = opened[members], world.group_count
    world.group_count = _FIRST_NUMBER + number
    try:
        _require_one_name(store, members, number, timeout_s)
        group = dist.new_group(
            list(ranks), timeout=timedelta(seconds=timeout_s), backend=backend, use_local_synchronization=True
        )
    finally:
        world.group_count = count
    assert isinstance(group, dist.ProcessGroup)
    return group


def _require_one_name(store: Any, members: tuple[int, ...], number: int, timeout_s: float) -> None:
    """Meet the other members at the store and compare the name that torch will give the group."""
    rank, key = dist.get_rank(), f"drb/groups/{_key(members)}/{number}"
    own = [rank, len(distributed_c10d._world.pg_names), distributed_c10d._hash_ranks_to_str(list(members))]
    first = json.loads(store.compare_set(f"{key}/first", "", json.dumps(own)))
    if first[2] != own[2]:
        store.set(
            f"{key}/problem",
            f"rank {rank} has {own[1]} process groups and rank {first[0]} has {first[1]}, or they made them in another "
            "order: torch.distributed cannot open another one on both; make process groups by the same calls of "
            "dist.new_group on all ranks, without use_local_synchronization, or make the rehearsal before them",
        )
    if store.add(f"{key}/arrived", 1) == len(members):
        store.set(f"{key}/all", "")
    start, pause_s = time.monotonic(), _POLL_S[0]
    while not store.check([f"{key}/all"]):
        waited_s = time.monotonic() - start
        if waited_s > timeout_s:
            raise FailureBoard(members).explain(
                "opening a process group", TimeoutError(f"not all of ranks {list(members)[:8]} came"), waited_s
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _POLL_S[1])
    if store.check([f"{key}/problem"]):
        raise ValueError(store.get(f"{key}/problem").decode())


def _key(members: Sequence[int]) -> str:
    """A short text for a group's members."""
    if list(members) == list(range(len(members))):
        return f"first-{len(members)}"
    return "-".join(map(str, members))
