"""The memory that a rehearsal takes, and whether a node has it: asked before anything is allocated, for all its ranks.

Every rank tells what it needs and what it sees free (the kernel's estimate, its control group's limit, /dev/shm). All
come to the same conclusion from the same figures, so that none waits for one that has given up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drb.buffer.admission import Admission
from drb.buffer.buffer import COLUMN_BYTES, INDEX_BYTES
from drb.buffer.capacity import capacity_of_rank
from drb.buffer.record import RecordSpec
from drb.buffer.spares import spare_rows
from drb.exchange import Transport
from drb.machine import SHM_DIRECTORY, available_memory_bytes, format_bytes, free_shared_memory_bytes
from drb.rehearsal.settings import RehearsalSettings
from drb.sampling.distinct import COUNTER_BYTES
from drb.variant import name_of

SHARED = "shared"  # in what a rank needs: the part that lies in /dev/shm


def own_capacity(settings: RehearsalSettings, spec: RecordSpec, rank: int, world_size: int) -> int:
    """The number of exemplars that this rank may hold."""
    return capacity_of_rank(
        settings.capacity,
        settings.capacity_scope,
        rank=rank,
        world_size=world_size,
        record_bytes=spec.row_bytes + COLUMN_BYTES + bool(spec.refreshed) * INDEX_BYTES,
        num_samples=settings.num_samples,
    )


def memory_bytes(
    row_bytes: int,
    capacity: int,
    max_rows: int,
    exemplars: int,
    exchange_staging_bytes: int,
    depth: int = 1,
    interval: int = 1,
    *,
    counts_offers: bool = False,
    decoded_bytes: int | None = None,
    decision_bytes: int = 0,
    stored_bytes: int | None = None,
) -> dict[str, int]:
    """Bytes that a rank holds at most, by purpose.

    Args:
        max_rows: of a minibatch. exemplars: the most of a step.
        exchange_staging_bytes: bytes of rows that are on their way between ranks.
        counts_offers: distinct ones, as proportions=stream needs.
        decoded_bytes: bytes of one record where it is used; None: those of a row.
        decision_bytes: what `decision_bytes` gives.
        stored_bytes: of host memory for each record of the buffer, 0 where it lies in a file; None: those of a row.
    """
    decoded_bytes, stored_bytes = decoded_bytes or row_bytes, row_bytes if stored_bytes is None else stored_bytes
    fetched, extended = (depth + 1) * interval * exemplars, 2 * (max_rows + exemplars)
    return {
        "rows": capacity * stored_bytes,
        "spare rows": spare_rows(capacity, max_rows, depth, interval) * stored_bytes,
        "metadata": capacity * COLUMN_BYTES + counts_offers * COUNTER_BYTES,
        "staging": fetched * row_bytes + extended * decoded_bytes + decision_bytes + exchange_staging_bytes,
    }


def decision_bytes(admission: Admission, spec: RecordSpec, capacity: int, max_rows: int) -> int:
    """Bytes that a rank's decisions take at most beside the buffer.

    If the policy reads fields, a minibatch is kept until they are there, and read again. If fields are refreshed, it is
    known of each sample where it is stored.
    """
    index = bool(spec.refreshed) * capacity * INDEX_BYTES
    if not admission.reads:
        return index
    numbers = {name: math.prod(spec.fields[name].shape) for name in admission.reads if name in spec.fields}
    kept = max_rows * (spec.row_bytes + spec.decoded_bytes)
    return index + kept + admission.memory_bytes(numbers, capacity + max_rows)


def free_memory() -> dict[str, int]:
    """Bytes that this rank sees free."""
    return {"memory": available_memory_bytes(), SHARED: free_shared_memory_bytes()}


def rows_of_ranks(greetings: Sequence[Mapping[str, Any]], depth: int, interval: int) -> list[int]:
    """The number of rows that each rank is to have, spare ones included. greetings: see `drb.rehearsal.handshake`."""
    largest = max(greeting["max_rows"] for greeting in greetings)
    rows = []
    for greeting in greetings:
        spare = spare_rows(greeting["capacity"], greeting["max_rows"] or largest, depth, interval)
        rows.append(greeting["capacity"] + spare)
    return rows


def require_room_for_buffers(
    greetings: Sequence[Mapping[str, Any]],
    transport: Transport,
    spec: RecordSpec,
    exemplars: int,
    depth: int,
    interval: int,
    admission: Admission,
    stored_bytes: int | None = None,
) -> None:
    """Require that every node has the memory.

    Args:
        greetings: of all ranks (`drb.rehearsal.handshake`). exemplars: the most of a step.
        admission: the policy of all buffers. stored_bytes: as for `memory_bytes`.
    Raises:
        ValueError: on all ranks, if a node has not the memory.
    """
    largest = max(greeting["max_rows"] for greeting in greetings)
    row_bytes = spec.row_bytes if stored_bytes is None else stored_bytes
    needed = []
    for greeting, rows in zip(greetings, rows_of_ranks(greetings, depth, interval), strict=True):
        capacity, max_rows = greeting["capacity"], greeting["max_rows"] or largest
        amounts = memory_bytes(
            spec.row_bytes,
            capacity,
            max_rows,
            exemplars,
            0,
            depth,
            interval,
            decoded_bytes=spec.decoded_bytes,
            decision_bytes=decision_bytes(admission, spec, capacity, max_rows),
            stored_bytes=stored_bytes,
        )
        # without what the exchange stages: its bound is for one rank that holds the whole union
        in_shared_memory = rows * row_bytes + 16 * capacity if transport.in_shared_memory and row_bytes else 0
        needed.append(amounts | {SHARED: in_shared_memory})
    free, nodes = ([greeting[name] for greeting in greetings] for name in ("free", "node"))
    require_room(needed, free, nodes, exchange=name_of(transport))


def require_room(
    needed: Sequence[Mapping[str, int]],
    free: Sequence[Mapping[str, Any]],
    nodes: Sequence[Any],
    exchange: str = "shared",
) -> None:
    """Require that every node has room for its ranks. All lists are by rank.

    Args:
        needed: as `memory_bytes`, and under "shared" how much of it is to lie in shared memory, if any is.
        free: as `free_memory`. exchange: the name of what puts rows into shared memory.
    Raises:
        ValueError: a node has too little: what its ranks need together, and what is free.
    """
    for node in dict.fromkeys(nodes):
        ranks = [rank for rank, other in enumerate(nodes) if other == node]
        where = "" if len(set(nodes)) == 1 else f" on {node}"
        who = "the rehearsal buffer needs" if len(ranks) == 1 else f"the rehearsal buffers of {len(ranks)} ranks need"
        total = sum(amount for rank in ranks for name, amount in needed[rank].items() if name != SHARED)
        room = min(int(free[rank]["memory"]) for rank in ranks)
        if total > room:
            raise ValueError(
                f"{who} {format_bytes(total)} of memory, {format_bytes(room)} are free{where}; lower the rehearsal's "
                "capacity" + ("" if len(ranks) == 1 else ", start fewer ranks per node") + ", or store smaller samples"
            )
        total = sum(needed[rank].get(SHARED, 0) for rank in ranks)
        room = min(int(free[rank][SHARED]) for rank in ranks)
        if total > room:
            raise ValueError(
                f"exchange={exchange}: {who} {format_bytes(total)} of shared memory, {SHM_DIRECTORY} has "
                f"{format_bytes(room)} left{where}; enlarge it (docker run --shm-size=…), lower "
                "the capacity or set exchange=collective"
            )
