"""How long a round takes on W ranks: what it sends, counted as the exchanges send it, at given costs.

A round is a meeting (`Meeting`: a barrier in the node's memory, which sends nothing, and between nodes a collective
along the rail), a few more collectives, each a message to every rank of a group (Gloo sends empty ones, too), and one
gather of rows. Ranks draw uniformly from equally full buffers, so that of r rows a share of (W - L) / W lies on other
nodes. At the barrier all ranks of a node but the last to come sleep, whoever that is: (L - 1) / L waits per rank.

    seconds = round_s + Σ collectives (collective_s + messages · message_s + bytes / speed + latency)
              + waits · wait_s + gather

The same sum with the CPU's costs gives CPU seconds, with `shared_core_s` more for each wait where a node has more ranks
than cores: who is woken finds the caches full of another rank's data, whether of one or of several. Where a node's
ranks together need more CPU seconds than its cores have, the round takes that long. Not in it: ranks that reach the
round late, and networks that slow down under load.

Letters: W ranks, N nodes, L ranks of a node, r exemplars of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drb.exchange.requests import fits_fixed_places, staging_bytes

_ANNOUNCED = 5  # integers of an announcement; exchanges that read from memory add the table's version
_WORD = 8


@dataclass(frozen=True)
class Place:
    """W ranks, L on each node but perhaps the last."""

    world_size: int
    per_node: int

    @property
    def nodes(self) -> int:
        return -(-self.world_size // self.per_node)

    @property
    def of_node(self) -> int:
        """Ranks of a full node."""
        return min(self.per_node, self.world_size)

    @property
    def own_share(self) -> float:
        """Of a uniform draw, what lies on the node of the rank that draws; on average over ranks."""
        full, rest = divmod(self.world_size, self.per_node)
        return (full * self.per_node**2 + rest**2) / self.world_size**2

    @property
    def is_even(self) -> bool:
        """Whether all nodes have as many ranks."""
        return self.world_size % self.of_node == 0

    @property
    def names(self) -> list[int]:
        """Every rank's node."""
        return [rank // self.per_node for rank in range(self.world_size)]


@dataclass(frozen=True)
class Collective:
    """What one rank sends in one collective, inside its node and to other nodes."""

    name: str
    node_messages: int
    network_messages: int
    node_bytes: float
    network_bytes: float

    @property
    def messages(self) -> int:
        return self.node_messages + self.network_messages


@dataclass(frozen=True)
class Traffic:
    """A round of one rank: its collectives, bytes of rows that it copies in memory.

    waits: for ranks of the node, on average over ranks. read_bytes: from other nodes, one-sided: positions, then rows.
    """

    collectives: tuple[Collective, ...]
    gathered_bytes: float
    waits: float = 0.0
    read_bytes: float = 0.0

    @property
    def messages(self) -> int:
        return sum(collective.messages for collective in self.collectives)

    @property
    def sent_bytes(self) -> float:
        """With rma, others read as many."""
        return sum(c.node_bytes + c.network_bytes for c in self.collectives) + self.read_bytes


@dataclass(frozen=True)
class Costs:
    """Seconds, of the clock or of a CPU; speeds in bytes per second.

    round_s: a round without messages, waits and rows. collective_s, message_s: a collective, and each message of it.
    wait_s: to sleep at the barrier of a node until all its ranks have come, and to go on. gather_speed: rows from
    memory to memory. node_speed: sockets between ranks of a node. network_speed: of a whole node, which its ranks
    share. latency_s: of the network, one way.
    """

    round_s: float
    collective_s: float
    message_s: float
    wait_s: float
    gather_speed: float
    node_speed: float
    network_speed: float
    latency_s: float = 0.0


@dataclass(frozen=True)
class Machine:
    """cores: of a node. shared_core_s: CPU seconds that a wait costs more where ranks share a core."""

    clock: Costs
    cpu: Costs
    cores: int
    shared_core_s: float = 0.0

    def with_network(self, latency_s: float | None, bytes_per_s: float | None) -> Machine:
        """The same nodes with another network."""
        clock = self.clock
        if latency_s is not None:
            clock = replace(clock, latency_s=latency_s)
        if bytes_per_s is not None:
            clock = replace(clock, network_speed=bytes_per_s)
        return replace(self, clock=clock)


def traffic(kind: str, place: Place, exemplars: int, row_bytes: int) -> Traffic:
    """What a rank sends in a round of the exchange `kind`, in bytes on average over ranks."""
    rows = float(exemplars * row_bytes)
    if place.world_size == 1:
        return Traffic((), rows)
    sizes, waits = _meeting(place, _ANNOUNCED if kind == "collective" else _ANNOUNCED + 1)
    if kind == "collective":
        return Traffic((*sizes, *_requests(place, exemplars, row_bytes, _shares(place))), rows, waits)
    if kind == "hierarchical":
        # rows of the own node take the same way without leaving the process: one more copy
        own = place.own_share
        collectives = (*sizes, *_requests(_rail(place), exemplars, row_bytes, (0.0, 1 - own)))
        return Traffic(collectives, rows * (1 + own), waits)
    if kind == "shared":
        return Traffic(sizes, rows, waits)
    if kind == "nccl":
        raise ValueError("drb plan knows nothing of exchange=nccl, which nobody has measured; plan with collective")
    assert kind == "rma", kind
    own = place.own_share  # MPI copies what is on the same node
    return Traffic(sizes, rows * own, waits, read_bytes=(rows + exemplars * _WORD) * (1 - own))


def seconds(sent: Traffic, costs: Costs, per_node: int) -> float:
    """Of one rank's round. All ranks of a node send at once."""
    total = costs.round_s + sent.waits * costs.wait_s + sent.gathered_bytes / costs.gather_speed
    for collective in sent.collectives:
        total += costs.collective_s + collective.messages * costs.message_s
        total += collective.node_bytes / costs.node_speed + collective.network_bytes * per_node / costs.network_speed
        total += costs.latency_s if collective.network_messages else 0.0
    if sent.read_bytes:
        total += 2 * 2 * costs.latency_s + sent.read_bytes * per_node / costs.network_speed  # there and back, twice
    return total


def cpu_seconds(sent: Traffic, machine: Machine, per_node: int) -> float:
    """CPU time of one rank's round, all threads of its process, where L ranks share a node's cores."""
    crowded_s = machine.shared_core_s if per_node > machine.cores else 0.0
    return seconds(sent, machine.cpu, per_node=1) + sent.waits * crowded_s


def round_seconds(sent: Traffic, machine: Machine, per_node: int) -> float:
    """How long a round takes, where L ranks share a node's cores with nothing else."""
    of_all = cpu_seconds(sent, machine, per_node) * per_node
    return max(seconds(sent, machine.clock, per_node), of_all / machine.cores)


def exchange_bytes(kind: str, place: Place, exemplars: int, words: int, capacity: int) -> int:
    """Memory that the exchange holds for rows on their way, at most (`Exchange.staging_bytes`)."""
    if kind == "collective":
        return staging_bytes(place.world_size, exemplars, words)
    if kind == "hierarchical":
        return staging_bytes(_rail(place).world_size, exemplars, words)
    return 2 * capacity * _WORD if kind == "rma" else 0


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Start and slope, neither below 0, of the least-squares line through (x, y)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread) if spread else 0.0
    return max(0.0, mean_y - slope * mean_x), slope


def _rail(place: Place) -> Place:
    """The ranks that one rank sends messages to with `hierarchical`: one per node, or all where nodes are uneven."""
    return Place(place.nodes, 1) if place.is_even else place


def _meeting(place: Place, words: int) -> tuple[tuple[Collective, ...], float]:
    """Collectives and waits of the meeting at which every rank announces so many words."""
    waits = 1 - 1 / place.of_node if place.is_even else 0.0
    return () if place.nodes == 1 else (_to_all("sizes", _rail(place), words),), waits


def _to_all(name: str, place: Place, words: int) -> Collective:
    """So many words to every other rank; of a rank on a node that is full."""
    near, far = place.of_node - 1, place.world_size - place.of_node
    return Collective(name, near, far, near * words * _WORD, far * words * _WORD)


def _requests(group: Place, exemplars: int, row_bytes: int, shares: tuple[float, float]) -> tuple[Collective, ...]:
    """Asking a group for r rows and getting them, as `RowRequests` does. shares: as `_shares` has them."""
    if fits_fixed_places(group.world_size, exemplars):
        asked: tuple[Collective, ...] = (_to_all("indices", group, exemplars + 1),)
    else:
        asked = (_to_all("counts", group, 1), _spread("values", group, exemplars * _WORD, shares))
    return (*asked, _spread("rows", group, exemplars * row_bytes, shares))


def _spread(name: str, group: Place, num_bytes: int, shares: tuple[float, float]) -> Collective:
    """So many bytes, to all ranks of the group together."""
    in_node, outside = shares
    return replace(_to_all(name, group, 0), node_bytes=num_bytes * in_node, network_bytes=num_bytes * outside)


def _shares(place: Place) -> tuple[float, float]:
    """The share of a uniform draw that comes from other ranks of the node, and from other nodes."""
    return place.own_share - 1 / place.world_size, 1 - place.own_share
