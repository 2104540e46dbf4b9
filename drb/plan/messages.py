"""What messages cost: small ones by their number, large ones by their bytes, inside a node and between nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its stubs

from drb.distributed.heartbeat import own_connection
from drb.exchange import Peers
from drb.plan.model import fit_line
from drb.types import Int64Array

PEERS = (1, 2, 4)
SMALL_WORDS, LARGE_WORDS = 6, 1 << 17
BLOCKS, BLOCK = 25, 10
_TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class MessageCosts:
    """clock, cpu: seconds of a collective, and of each message in it.

    Speeds in bytes per second; latency one way.
    """

    clock: tuple[float, float]
    cpu: tuple[float, float]
    node_speed: float
    network_speed: float
    latency_s: float


def measure_messages(peers: Peers | None, nodes: Sequence[Any]) -> MessageCosts | None:
    """Rank 0 and a rank of its node measure, the others wait; then rank 0 and one of another node. Collective."""
    if peers is None:
        return None
    near = next((r for r in range(1, len(nodes)) if nodes[r] == nodes[0]), None)
    far = next((r for r in range(1, len(nodes)) if nodes[r] != nodes[0]), None)
    partner = far if near is None else near
    assert partner is not None
    small = [_pair(peers, partner, number, SMALL_WORDS) for number in PEERS]
    clock = fit_line([(number, wall) for number, (wall, _) in zip(PEERS, small, strict=True)])
    cpu = fit_line([(number, used) for number, (_, used) in zip(PEERS, small, strict=True)])
    large, _ = _pair(peers, partner, 1, LARGE_WORDS)
    speed = LARGE_WORDS * 8 / max(large - small[0][0], 1e-9)
    latency_s, network_speed = 0.0, speed
    if far is not None and near is not None:
        far_small, far_large = _pair(peers, far, 1, SMALL_WORDS)[0], _pair(peers, far, 1, LARGE_WORDS)[0]
        latency_s = max(0.0, far_small - small[0][0])
        network_speed = LARGE_WORDS * 8 / max(far_large - far_small, 1e-9)
    return MessageCosts(clock, cpu, speed, network_speed, latency_s)


def _pair(peers: Peers, partner: int, number: int, words: int) -> tuple[float, float]:
    """The clock's and the CPU's seconds of rank 0's all_to_all with so many peers, played by `partner`. Collective."""
    found = np.zeros(2)
    moment = int(peers.announce(np.array([time.time_ns()]))[0, 0])  # rank 0's: what was met at before is not used again
    if peers.rank in (0, partner):
        tag = f"drb/plan/{peers.group.group_name}/{moment}"
        found = _exchange_with(tag, peers.rank, number, words)
    return _told_by_rank_0(peers, found)


def _medians(call: Callable[[], None], block: int) -> Any:
    """float64 [2]: the clock's and the CPU's seconds of a call, from blocks of so many."""
    times = []
    for _ in range(BLOCKS):
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(block):
            call()
        times.append(((time.perf_counter() - start) / block, (time.process_time() - cpu) / block))
    return np.median(np.array(times[2:]), axis=0)


def _told_by_rank_0(peers: Peers, found: Any) -> tuple[float, float]:
    """Its two numbers of seconds. Collective."""
    nanoseconds: Int64Array = peers.announce(np.rint(found * 1e9).astype(np.int64))[0]
    return float(nanoseconds[0]) / 1e9, float(nanoseconds[1]) / 1e9


def _exchange_with(tag: str, rank: int, number: int, words: int) -> Any:
    """float64 [2]; on both ranks, for what they play: rank 0 itself, its partner all the others."""
    played = [0] if rank == 0 else list(range(1, number + 1))
    stores = [PrefixStore(tag, own_connection(_default_store())) for _ in played]

    def connect(rank: int, store: PrefixStore) -> Any:
        return dist.ProcessGroupGloo(store, rank, number + 1, _TIMEOUT)

    with ThreadPoolExecutor(len(played)) as pool:  # each waits for all the others to connect
        groups = list(pool.map(connect, played, stores))
    send = [torch.zeros((number + 1) * words, dtype=torch.int64) for _ in groups]
    received = [torch.empty_like(tensor) for tensor in send]

    def all_to_all() -> None:
        works = [g.alltoall_base(r, s, [], []) for g, r, s in zip(groups, received, send, strict=True)]
        for work in works:
            work.wait()

    return _medians(all_to_all, BLOCK)


def _default_store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
