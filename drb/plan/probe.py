"""Measures on the ranks of a launcher what the model needs: training steps, rounds of the real exchange, messages.

Collective. Rounds run without training beside them, as fast as they can; buffers are filled with noise. What one
message costs is seen from rank 0, which exchanges with 1, 2 and 4 peers that one other rank plays: each of them is a
Gloo rank of its own, so that no more than two processes are needed.

Letters: b rows of a minibatch, r exemplars.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from drb.buffer.admission import Offer
from drb.buffer.record import RecordSpec
from drb.exchange import Peers
from drb.plan.cores import measure_on_cores, node_cores
from drb.plan.messages import MessageCosts, measure_messages
from drb.plan.model import Costs, Machine, Place, Traffic, traffic
from drb.plan.model import seconds as modelled_seconds
from drb.plan.timing import timed
from drb.rehearsal.assemble import assemble
from drb.rehearsal.auto_exemplars import Line
from drb.rehearsal.parts import Parts
from drb.rehearsal.settings import RehearsalSettings
from drb.types import Minibatch

MOST_BYTES = 256 << 20  # of buffers that rounds are tried on: larger than a cache, filled in a second
VERSION = 2  # of what a probe writes
UNMEASURED_SPEED = 1e9  # bytes/s through sockets, where there is one rank


@dataclass(frozen=True)
class Measured:
    """place, exchange: of the probe. step: seconds by r, or None. rounds: (r, seconds, CPU seconds), ascending.

    A round serves `interval` steps, and fetches r rows for each of them.
    """

    ranks: int
    per_node: int
    exchange: str
    row_bytes: int
    step: Line | None
    rounds: tuple[tuple[int, float, float], ...]
    machine: Machine
    interval: int = 1

    @property
    def round_line(self) -> Line:
        (low, low_s, _), (high, high_s, _) = self.rounds[0], self.rounds[-1]
        return Line.through((low, low_s), (high, high_s))

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Raises KeyError or TypeError if it is no measurement, ValueError if it is one of another version."""
        if value.get("version") != VERSION:
            raise ValueError("it was written by another version of drb, whose model had other costs: probe again")
        machine = value["machine"]
        return cls(
            **{name: value[name] for name in ("ranks", "per_node", "exchange", "row_bytes")},
            step=None if value["step"] is None else Line(**value["step"]),
            rounds=tuple((int(r), float(s), float(cpu)) for r, s, cpu in value["rounds"]),
            machine=Machine(
                Costs(**machine["clock"]),
                Costs(**machine["cpu"]),
                int(machine["cores"]),
                float(machine["shared_core_s"]),
            ),
            interval=int(value["interval"]),
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
    steps = itertools.count(step=parts.interval)
    found = []
    for size in sizes:
        parts.runner.exemplars_of = lambda union, size=size: size
        clock, cpu = timed(lambda: parts.run_round(next(steps)), seconds / len(sizes), peers)
        found.append((size, clock, cpu))
    return parts, tuple(found)


def measure_alone(
    settings: RehearsalSettings, spec: RecordSpec, batch_size: int, exemplars: int, seconds: float
) -> tuple[int, float, float]:
    """A round of this rank by itself, as `measure_rounds` has it, for which it fills a buffer of its own."""
    settings = replace(settings, exchange="loopback", asynchronous=False)
    parts, rounds = measure_rounds(settings, spec, batch_size, None, seconds, (exemplars,))
    parts.engine.close()
    return rounds[0]


def measure_machine(
    parts: Parts,
    together: tuple[int, float, float],
    alone: tuple[int, float, float],
    place: Place,
    peers: Peers | None,
    nodes: Sequence[Any],
    seconds: float,
) -> Machine:
    """Fit the model's costs, with so many seconds of rounds on given cores. Collective.

    together, alone: (r, seconds of the clock, of CPU) of rounds of all ranks, and of a rank by itself. What those of
    all ranks take longer, and messages do not explain, is what the wait for one another costs: measured on given cores.
    Where messages are sent it is constant, because with Gloo a rank waits in each collective, however many ranks there
    are; and cores are not given, because its threads need some besides.
    """
    exemplars, alone_s, alone_cpu_s = alone
    speed, messages, cores = _gather_speed(parts), measure_messages(peers, nodes), node_cores(peers, nodes)
    clock, cpu = (_costs(messages, speed, is_cpu=is_cpu) for is_cpu in (False, True))
    rows_s = parts.interval * exemplars * parts.spec.row_bytes / speed
    clock, cpu = (replace(c, round_s=max(0.0, s - rows_s)) for c, s in ((clock, alone_s), (cpu, alone_cpu_s)))
    if peers is None:
        return Machine(clock, cpu, len(cores))
    sent = traffic(parts.exchange.name, place, parts.interval * exemplars, parts.spec.row_bytes)
    _, clock_s, cpu_s = together
    more_s = 0.0
    if not sent.sent_bytes:
        steps = itertools.count(step=parts.interval)
        parts.runner.exemplars_of = lambda union: exemplars
        run = lambda: parts.run_round(next(steps))  # noqa: E731
        (clock_s, cpu_s), more_s = measure_on_cores(run, seconds, cores, peers, nodes)
    clock, cpu = with_surplus(clock, sent, clock_s, place.per_node), with_surplus(cpu, sent, cpu_s, 1)
    return Machine(clock, cpu, len(cores), more_s / sent.waits if sent.waits else 0.0)


def with_surplus(costs: Costs, sent: Traffic, seconds: float, per_node: int) -> Costs:
    """What a round took that these costs do not explain, put down to waiting or to the constant."""
    surplus = max(0.0, seconds - modelled_seconds(sent, costs, per_node))
    if sent.waits and not sent.sent_bytes:
        return replace(costs, wait_s=surplus / sent.waits)
    return replace(costs, round_s=costs.round_s + surplus)


def _costs(messages: MessageCosts | None, gather_speed: float, *, is_cpu: bool) -> Costs:
    """Of messages and rows alone. One rank alone sends nothing."""
    if messages is None:
        return Costs(0.0, 0.0, 0.0, 0.0, gather_speed, UNMEASURED_SPEED, UNMEASURED_SPEED)
    speeds = gather_speed, messages.node_speed, messages.network_speed
    return Costs(
        0.0, *(messages.cpu if is_cpu else messages.clock), 0.0, *speeds, 0.0 if is_cpu else messages.latency_s
    )


def _gather_speed(parts: Parts) -> float:
    """Bytes per second of this rank's own gather of a round's rows."""
    rows, block = parts.buffer.rows[: parts.buffer.capacity], parts.runner.blocks[0]
    rng, times = np.random.default_rng(0), []
    for _ in range(300):
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
