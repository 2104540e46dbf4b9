"""Measures on the ranks of a launcher what the model needs: training steps, rounds of the real exchange, messages.

Collective. Rounds run without training beside them, as fast as they can; buffers are filled with noise. What one
message costs is seen from rank 0, which exchanges with 1, 2 and 4 peers that one other rank plays: each of them is a
Gloo rank of its own, so that no more than two processes are needed. Both also meet in shared
memory, as ranks of a node do.

Letters: b rows of a minibatch, r exemplars.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from drb.admission import Offer
from drb.assembly import Parts, assemble
from drb.exchange import Peers
from drb.hiding import Line
from drb.plan.messages import MessageCosts, measure_messages
from drb.plan.model import Costs, Machine, Place, traffic
from drb.plan.model import seconds as modelled_seconds
from drb.record import RecordSpec
from drb.settings import RehearsalSettings
from drb.types import Minibatch

MOST_BYTES = 256 << 20  # of buffers that rounds are tried on: larger than a cache, filled in a second
WARM_UP, MOST_CALLS, MOST_BLOCKS = 2, 2000, 50
UNMEASURED_SPEED = 1e9  # bytes/s through sockets, where there is one rank


@dataclass(frozen=True)
class Measured:
    """place, exchange: of the probe. step: seconds by r, or None. rounds: (r, seconds, CPU seconds), ascending."""

    ranks: int
    per_node: int
    exchange: str
    row_bytes: int
    step: Line | None
    rounds: tuple[tuple[int, float, float], ...]
    machine: Machine

    @property
    def round_line(self) -> Line:
        (low, low_s, _), (high, high_s, _) = self.rounds[0], self.rounds[-1]
        return Line.through((low, low_s), (high, high_s))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Raises KeyError or TypeError if it is no measurement."""
        machine = value["machine"]
        return cls(
            **{name: value[name] for name in ("ranks", "per_node", "exchange", "row_bytes")},
            step=None if value["step"] is None else Line(**value["step"]),
            rounds=tuple((int(r), float(s), float(cpu)) for r, s, cpu in value["rounds"]),
            machine=Machine(Costs(**machine["clock"]), Costs(**machine["cpu"]), int(machine["cores"])),
        )


def measure_rounds(
    settings: RehearsalSettings,
    spec: RecordSpec,
    batch_size: int,
    peers: Peers | None,
    seconds: float,
    sizes: Sequence[int] = (),
) -> tuple[Parts, tuple[tuple[int, float, float], ...]]:
    """Rounds of 1 to settings.exemplars: (r, seconds of the clock, of CPU), ascending, as `timed` has them. Collective.

    The parts are the caller's to close.
    """
    assert isinstance(settings.exemplars, int)
    parts = assemble(settings, spec, batch_size, peers)
    assert parts is not None, "batch_size tells how many rows there will be"
    _fill(parts, peers.rank if peers else 0)
    sizes = sizes or sorted({1, -(-settings.exemplars // 4), settings.exemplars})
    rounds = iter(range(1 << 62))
    found = []
    for size in sizes:
        parts.runner.exemplars_of = lambda union, size=size: size
        clock, cpu = timed(lambda: parts.run_round(next(rounds)), seconds / len(sizes), peers)
        found.append((size, clock, cpu))
    return parts, tuple(found)


def timed(call: Callable[[], Any], seconds: float, peers: Peers | None) -> tuple[float, float]:
    """The clock's and the CPU's seconds of a collective call: medians; of the slowest rank, of the mean one.

    Every rank calls it equally often, for about so many seconds.
    """
    for _ in range(WARM_UP):
        start = time.perf_counter()
        call()
    calls = min(max(1, int(seconds / (time.perf_counter() - start))), MOST_CALLS)
    if peers is not None:
        calls = int(peers.announce(np.array([calls]))[0, 0])
    block = max(1, calls // MOST_BLOCKS)  # of calls between two looks at the clock
    times = []
    for _ in range(calls // block):
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(block):
            call()
        times.append(((time.perf_counter() - start) / block, (time.process_time() - cpu_start) / block))
    clock, cpu = np.median(np.array(times), axis=0).tolist()
    if peers is not None:
        everyones = peers.announce(np.array([clock * 1e9, cpu * 1e9]).astype(np.int64)) / 1e9
        clock, cpu = float(everyones[:, 0].max()), float(everyones[:, 1].mean())
    return clock, cpu


def measure_machine(
    parts: Parts, rounds: tuple[tuple[int, float, float], ...], place: Place, peers: Peers | None, nodes: Sequence[Any]
) -> Machine:
    """Fit the model's costs. Collective.

    What messages, stages and gathers do not explain of a measured round is its constant: the model gives that round
    back, and adds messages and stages for other numbers of ranks.
    """
    exemplars, clock_s, cpu_s = rounds[0]
    sent = traffic(parts.exchange.name, place, exemplars, parts.spec.row_bytes)
    speed, messages = _gather_speed(parts), measure_messages(peers, nodes)
    clock, cpu = _costs(messages, speed, is_cpu=False), _costs(messages, speed, is_cpu=True)
    clock = replace(clock, round_s=max(0.0, clock_s - modelled_seconds(sent, clock, place.per_node)))
    cpu = replace(cpu, round_s=max(0.0, cpu_s - modelled_seconds(sent, cpu, per_node=1)))
    return Machine(clock, cpu, cores=len(os.sched_getaffinity(0)))


def _costs(messages: MessageCosts | None, gather_speed: float, *, is_cpu: bool) -> Costs:
    """Without the constant. One rank alone sends nothing."""
    if messages is None:
        return Costs(0.0, 0.0, 0.0, 0.0, gather_speed, UNMEASURED_SPEED, UNMEASURED_SPEED)
    speeds = gather_speed, messages.node_speed, messages.network_speed
    return Costs(0.0, *(messages.cpu if is_cpu else messages.clock), *speeds, 0.0 if is_cpu else messages.latency_s)


def _gather_speed(parts: Parts) -> float:
    """Bytes per second of this rank's own gather of a round's rows."""
    rows, block = parts.buffer.rows[: parts.buffer.capacity], parts.runner.blocks[0]
    rng, times = np.random.default_rng(0), []
    for _ in range(30):
        where = rng.integers(0, len(rows), len(block))
        start = time.perf_counter()
        np.take(rows, where, axis=0, out=block, mode="clip")
        times.append(time.perf_counter() - start)
    return float(block.nbytes / np.median(times))


def _fill(parts: Parts, rank: int) -> None:
    """Noise into every slot; alike on all ranks but for the ids."""
    buffer, rows = parts.buffer, parts.max_rows
    minibatch = random_minibatch(parts.spec, rows)
    for start in range(0, buffer.capacity, rows):
        count = min(rows, buffer.capacity - start)
        ids = np.arange(start, start + count) + (rank << 32)
        offer = Offer(ids, ids % 10, ids.astype(np.uint64), 0)
        buffer.stage({name: values[:count] for name, values in minibatch.items()}, offer)
        buffer.commit()


def random_minibatch(spec: RecordSpec, rows: int) -> Minibatch:
    """Bits of noise in every field."""
    generator = torch.Generator().manual_seed(0)
    noise = {}
    for name, field in spec.fields.items():
        bits = torch.randint(0, 2, (rows, *field.shape), generator=generator)
        noise[name] = bits.to(field.dtype)
    return noise
