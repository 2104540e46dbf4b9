"""Whether the machine has the memory for a rehearsal: asked before anything is allocated, for all ranks of a node.

Every rank tells what it needs and what it sees free (the kernel's estimate, its control group's limit, /dev/shm). All
come to the same conclusion from the same figures, so that none waits for one that has given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drb.machine import SHM_DIRECTORY, _free_shared_bytes, available_memory_bytes

SHARED = "shared"  # in what a rank needs: the part that lies in /dev/shm


def memory_needed(
    *,
    capacity: int,
    num_rows: int,
    max_rows: int,
    exemplars: int,
    fetched: int,
    row_bytes: int,
    column_bytes: int,
    staging: int,
) -> dict[str, int]:
    """Bytes that one rank holds at most, by purpose.

    Args:
        num_rows: with spare rows. max_rows: of a minibatch. column_bytes: of an exemplar's metadata.
        exemplars: of a step. fetched: exemplars for which there are blocks to fetch into.
        staging: bytes of rows that are on their way between ranks.
    """
    return {
        "rows": capacity * row_bytes,
        "spare rows": (num_rows - capacity) * row_bytes,
        "metadata": capacity * column_bytes,
        "staging": (fetched + 2 * (max_rows + exemplars)) * row_bytes + staging,
    }


def free_memory() -> dict[str, int]:
    """Bytes that this rank sees free."""
    return {"memory": available_memory_bytes(), SHARED: _free_shared_bytes()}


def require_room(needed: Sequence[Mapping[str, int]], free: Sequence[Mapping[str, Any]], nodes: Sequence[Any]) -> None:
    """Whether every node has room for its ranks. All lists are by rank.

    Args:
        needed: as `memory_needed`, and under "shared" how much of it is to lie in shared memory, if any is.
        free: as `free_memory`.
    Raises:
        ValueError: the first node that has not: what its ranks need together, and what is free.
    """
    for node in dict.fromkeys(nodes):
        ranks = [rank for rank, other in enumerate(nodes) if other == node]
        where = "" if len(set(nodes)) == 1 else f" on {node}"
        who = "the rehearsal buffer needs" if len(ranks) == 1 else f"the rehearsal buffers of {len(ranks)} ranks need"
        total = sum(amount for rank in ranks for name, amount in needed[rank].items() if name != SHARED)
        room = min(int(free[rank]["memory"]) for rank in ranks)
        if total > room:
            raise ValueError(
                f"{who} {_readable(total)} of memory, {_readable(room)} are free{where}; lower the rehearsal's capacity"
                + ("" if len(ranks) == 1 else ", start fewer ranks per node")
                + ", or store smaller samples"
            )
        total = sum(needed[rank].get(SHARED, 0) for rank in ranks)
        room = min(int(free[rank][SHARED]) for rank in ranks)
        if total > room:
            raise ValueError(
                f"exchange=shared: {who} {_readable(total)} of shared memory, {SHM_DIRECTORY} has {_readable(room)} "
                f"left{where}; enlarge it (docker run --shm-size=…), lower the capacity or set exchange=collective"
            )


def _readable(num_bytes: int) -> str:
    """1536 MiB are "1.50 GiB"; exact for integers of any size."""
    if num_bytes >= 100 * 2**30:
        return f"{num_bytes // 2**30:,} GiB"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes} bytes"
