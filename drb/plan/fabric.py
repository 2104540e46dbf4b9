"""Checks the links between all ranks of a run before it starts: `drb plan --fabric`.

Two ranks that are paired send a message to and fro, a small one for the latency and a large one for the bandwidth.
Pairs work at the same time, but every node has as many pairs at work as any other, so that the same kind of link is
measured under the same load. Then come the collectives that drb uses. Rows and numbers of a rehearsal travel over Gloo
from host memory; gradients over the backend of the training device.

Letters: W ranks, N nodes, L ranks of a node.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist

from drb.distributed.agreement import gather_json
from drb.distributed.peers import Peers, open_peers
from drb.distributed.world import World

SMALL_BYTES, LARGE_BYTES = 8, 4 << 20
GRADIENT_BYTES = 25 << 20  # of a bucket of DDP
_REPEATS = 5
_MOST_ROUNDS = 64  # between nodes, each with one link per rank: a sample of them where there are more
_SLOW = 0.5  # of the median of its kind


@dataclass(frozen=True)
class Link:
    """What two ranks found. The times are those of the best of a few messages, one way.

    between_nodes: whether they are on different nodes.
    """

    ranks: tuple[int, int]
    between_nodes: bool
    latency_s: float
    bytes_per_second: float


@dataclass(frozen=True)
class Fabric:
    """What was found.

    nodes:  of every rank, by rank.
    links:  those that were measured. left_out: how many were not, in a large run.
    collectives: seconds of each collective, that of the slowest rank.
    """

    nodes: tuple[str, ...]
    links: tuple[Link, ...]
    left_out: int
    collectives: dict[str, float]

    def kind(self, between_nodes: bool) -> list[Link]:
        """The links within nodes, or those between them."""
        return [link for link in self.links if link.between_nodes == between_nodes]


def measure_fabric(world: World, timeout_s: float) -> Fabric:
    """Measure every link, or a sample of them in a large run. Collective.

    Args:
        timeout_s: how long a message may take.
    Raises:
        ValueError: one rank has no links. PeerError: a message did not arrive.
    """
    peers = open_peers(None, timeout_s)
    if peers is None:
        raise ValueError("one rank has no links: start drb plan --fabric on several, for example with torchrun")
    nodes = [str(node) for node in gather_json(world.node)]
    own = [found for pairs in rounds_of(nodes) if (found := _measure_own(pairs, peers)) is not None]
    links = [
        Link((low, high), nodes[low] != nodes[high], latency, speed)
        for of_rank in gather_json(own)
        for low, high, latency, speed in of_rank
    ]
    times = gather_json(_collectives(peers, world))
    peers.close()
    slowest = {name: max(each[name] for each in times) for name in times[0]}
    num_pairs = world.world_size * (world.world_size - 1) // 2
    return Fabric(tuple(nodes), tuple(links), num_pairs - len(links), slowest)


def rounds_of(nodes: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Which ranks are paired at the same time, (lower, higher), no rank twice: within nodes, then between them.

    Args:
        nodes: of every rank.
    """
    ranks_of: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks_of.setdefault(node, []).append(rank)
    groups = list(ranks_of.values())
    most = max(map(len, groups))
    within = [
        [(group[a], group[b]) for group in groups for a, b in pairs if b < len(group)] for pairs in _tournament(most)
    ]
    between = [
        [
            (groups[a][i], groups[b][(i + shift) % most])
            for a, b in pairs
            for i in range(len(groups[a]))
            if (i + shift) % most < len(groups[b])
        ]
        for pairs in _tournament(len(groups))
        for shift in range(most)
    ]
    step = -(-len(between) // _MOST_ROUNDS) or 1
    return [[(min(pair), max(pair)) for pair in pairs] for pairs in [*within, *between[::step]] if pairs]


def slow_links(fabric: Fabric) -> list[Link]:
    """Links with less than half of the median bandwidth of their kind, the slowest first."""
    found = []
    for between_nodes in (False, True):
        links = fabric.kind(between_nodes)
        if links:
            median = statistics.median(link.bytes_per_second for link in links)
            found += [link for link in links if link.bytes_per_second < _SLOW * median]
    return sorted(found, key=lambda link: link.bytes_per_second)


def slow_ranks(fabric: Fabric) -> list[int]:
    """Ranks of which more than half of the links are slow, where the run has more than two ranks."""
    slow = slow_links(fabric)
    return [
        rank
        for rank in range(len(fabric.nodes))
        if len(fabric.nodes) > 2 and 2 * _links_of(rank, slow) > _links_of(rank, fabric.links)
    ]


def _links_of(rank: int, links: Sequence[Link]) -> int:
    return sum(rank in link.ranks for link in links)


def _tournament(count: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds in which each of so many meets each other once, a < b: the circle method."""
    even = count + count % 2
    for turn in range(even - 1):
        pairs = [(i, (turn - i) % (even - 1)) for i in range(even - 1)]
        yield [(a, b) for a, b in pairs if a < b] + [(a, even - 1) for a, b in pairs if a == b and even == count]


def _measure_own(pairs: Sequence[tuple[int, int]], peers: Peers) -> tuple[int, int, float, float] | None:
    """This rank's pair, seconds of latency, and bytes per second, on the lower rank. All ranks wait for one another."""
    peers.barrier("the start of a round of messages")
    own = [pair for pair in pairs if peers.rank in pair]
    if not own:
        return None
    low, high = own[0]
    what = f"a message between ranks {low} and {high}"
    latency, large = (
        peers.run(what, partial(_to_and_fro, size, low, high, peers)) for size in (SMALL_BYTES, LARGE_BYTES)
    )
    return (low, high, latency, LARGE_BYTES / large) if peers.rank == low else None


def _to_and_fro(size: int, low: int, high: int, peers: Peers) -> float:
    """Seconds of a message one way: the best of a few, after one that does not count."""
    message, times = torch.zeros(size, dtype=torch.uint8), []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        if peers.rank == low:
            dist.send(message, high, group=peers.group)
            dist.recv(message, high, group=peers.group)
        else:
            dist.recv(message, low, group=peers.group)
            dist.send(message, low, group=peers.group)
        times.append((time.perf_counter() - start) / 2)
    return min(times[1:])


def _collectives(peers: Peers, world: World) -> dict[str, float]:
    """Seconds of each collective on this rank: the median of a few."""
    gradients = torch.zeros(GRADIENT_BYTES // 4, device=world.device)
    numbers = torch.zeros(peers.world_size, dtype=torch.int64)
    rows = torch.zeros(LARGE_BYTES // peers.world_size * peers.world_size, dtype=torch.uint8)
    calls: dict[str, Callable[[], object]] = {
        "gradients": lambda: dist.all_reduce(gradients),
        "numbers": lambda: dist.all_to_all_single(numbers.clone(), numbers, group=peers.group),
        "rows": lambda: dist.all_to_all_single(rows.clone(), rows, group=peers.group),
    }
    return {name: peers.run(f"the collective of {name}", partial(_median, call, world)) for name, call in calls.items()}


def _median(call: Callable[[], object], world: World) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        call()
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
