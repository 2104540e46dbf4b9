"""Rounds with a core for each rank, and with two ranks on a core.

Ranks that take turns on a core find its caches full of one another's data. Left alone, the scheduler may put two ranks
that wake each other on one core or on two, so that what is measured then is either.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from drb.exchange import Peers
from drb.machine import usable_cores
from drb.plan.timing import timed

TURNS = 5  # of either, in turn: a machine that slows down slows both


def node_cores(peers: Peers | None, nodes: Sequence[Any]) -> list[int]:
    """Numbers of the cores that the ranks of this rank's node may use, together. nodes: every rank's. Collective."""
    own = usable_cores()
    if peers is None:
        return own
    of_ranks = zip(nodes, peers.gather_json(own, "cores"), strict=True)
    return sorted({core for node, cores in of_ranks if node == nodes[peers.rank] for core in cores})


def measure_on_cores(
    call: Callable[[], Any], seconds: float, cores: Sequence[int], peers: Peers, nodes: Sequence[Any]
) -> tuple[tuple[float, float], float]:
    """Clock's and CPU's seconds of a collective call with a core for each rank, as `timed` has them. Collective.

    And how many CPU seconds it costs a rank more if two share a core. 0 where that cannot be told, and ranks are left
    where they are: nodes have one rank or fewer cores than ranks, or a rank may not choose its core.
    """
    here, place = nodes.count(nodes[peers.rank]), nodes[: peers.rank].count(nodes[peers.rank])
    own, pairs = {cores[place % len(cores)]}, {cores[place // 2]}
    answers = peers.gather_json(
        {"may": here <= len(cores) and _may_use(own | pairs), "shares": here > 1 and place < here // 2 * 2}, "cores"
    )
    share = float(np.mean([answer["shares"] for answer in answers]))  # of ranks that are two on a core
    if not share or not all(answer["may"] for answer in answers):
        return timed(call, seconds, peers), 0.0
    found = []
    for _ in range(TURNS):
        for where in (own, pairs):
            with on_cores(where):
                found.append(timed(call, seconds / TURNS / 2, peers))
    apart, together = np.array(found[::2]), np.array(found[1::2])
    clock, cpu = np.median(apart, axis=0).tolist()
    return (clock, cpu), max(0.0, float(np.median(together - apart, axis=0)[1])) / share


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """All threads that this process has run on these cores alone; afterwards where they did before.

    Raises:
        OSError: the system does not allow it; nothing has changed.
    """
    before: dict[int, set[int]] = {}
    try:
        for thread in map(int, os.listdir("/proc/self/task")):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, cores)
        yield
    finally:
        for thread, its_cores in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, its_cores)


def _may_use(cores: Collection[int]) -> bool:
    try:
        with on_cores(cores):
            return True
    except OSError:
        return False
