"""What messages cost: small ones by their number, large ones by their bytes, inside a node and between nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its stubs

from drb.exchange import Peers
from drb.plan.model import fit_line

PEERS = (1, 2, 4)
SMALL_WORDS, LARGE_WORDS = 6, 1 << 17
BLOCKS, BLOCK = 25, 10
_TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class MessageCosts:
    """clock, cpu: seconds of a collective and of each message in it. Speeds in bytes per second; latency one way."""

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
    # without more clients of the store there can be one peer; a collective is then taken for all message
    numbers = PEERS if hasattr(_default_store(), "clone") else (0, 1)
    small = [_pair(peers, partner, number, SMALL_WORDS) if number else (0.0, 0.0) for number in numbers]
    clock = fit_line([(number, wall) for number, (wall, _) in zip(numbers, small, strict=True)])
    cpu = fit_line([(number, used) for number, (_, used) in zip(numbers, small, strict=True)])
    one = small[numbers.index(1)][0]
    large, _ = _pair(peers, partner, 1, LARGE_WORDS)
    speed = LARGE_WORDS * 8 / max(large - one, 1e-9)
    latency_s, network_speed = 0.0, speed
    if far is not None and near is not None:
        far_small, far_large = _pair(peers, far, 1, SMALL_WORDS)[0], _pair(peers, far, 1, LARGE_WORDS)[0]
        latency_s = max(0.0, far_small - one)
        network_speed = LARGE_WORDS * 8 / max(far_large - far_small, 1e-9)
    return MessageCosts(clock, cpu, speed, network_speed, latency_s)


def _pair(peers: Peers, partner: int, number: int, words: int) -> tuple[float, float]:
    """The clock's and the CPU's seconds of rank 0's all_to_all with so many peers, played by `partner`. Collective."""
    found = np.zeros(2)
    moment = int(peers.announce(np.array([time.time_ns()]))[0, 0])  # rank 0's: what was met at before is not used again
    if peers.rank in (0, partner):
        tag = f"drb/plan/{peers.group.group_name}/{moment}"
        found = _exchange_with(PrefixStore(tag, _default_store()), peers.rank, number, words)
    nanoseconds = peers.announce(np.rint(found * 1e9).astype(np.int64))[0]
    return float(nanoseconds[0]) / 1e9, float(nanoseconds[1]) / 1e9


def _exchange_with(store: PrefixStore, rank: int, number: int, words: int) -> Any:
    """float64 [2]; on both ranks, for what they play: rank 0 itself, its partner all the others."""
    played = [0] if rank == 0 else list(range(1, number + 1))
    with ThreadPoolExecutor(len(played)) as pool:  # each waits for all the others to connect
        groups: list[Any] = list(pool.map(lambda rank: _join(store, rank, number + 1), played))
    send = [torch.zeros((number + 1) * words, dtype=torch.int64) for _ in groups]
    received = [torch.empty_like(tensor) for tensor in send]

    def all_to_all() -> None:
        works = [g.alltoall_base(r, s, [], []) for g, r, s in zip(groups, received, send, strict=True)]
        for work in works:
            work.wait()

    times = []
    for _ in range(BLOCKS):
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(BLOCK):
            all_to_all()
        times.append(((time.perf_counter() - start) / BLOCK, (time.process_time() - cpu) / BLOCK))
    return np.median(np.array(times[2:]), axis=0)


def _join(store: Any, rank: int, size: int) -> Any:
    """A client of the store for each: one that waits for a key keeps others in its process from writing theirs."""
    return dist.ProcessGroupGloo(store.clone() if size > 2 else store, rank, size, _TIMEOUT)


def _default_store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
