"""The folder of storage=mmap: on every node it belongs to one run while that runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from drb.buffer.storage.mapped import is_in_memory, remove_leftovers
from drb.checkpoint.lock import RunLock
from drb.exchange import Peers
from drb.rehearsal.handshake import Greeting

PATIENCE_S = 6.0  # a killed process's loader workers, which have its lock as long as they live, look every 5 s
_log = logging.getLogger("drb")


def claim_folder(folder: str, greetings: Sequence[Greeting], peers: Peers | None) -> RunLock | None:
    """Lock the folder on this rank's node, and remove what killed runs have left there. Collective.

    The first rank of each node does it, for its node; the others get None. `release` it, or drop it.

    Raises:
        ValueError: another run uses the folder, or it cannot be used; on all ranks.
    """
    nodes, rank = [greeting["node"] for greeting in greetings], 0 if peers is None else peers.rank
    lock, problem = None, ""
    if nodes.index(nodes[rank]) == rank:
        try:
            lock = _claim(Path(folder))
        except (OSError, ValueError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            problem = f"storage_folder={folder} cannot be used{_on(nodes, rank)}: {reason}"
    if peers is not None:
        peers.raise_any(problem, "storage folder")
    elif problem:
        raise ValueError(problem)
    return lock


def _claim(folder: Path) -> RunLock:
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = RunLock(folder, "a rehearsal", patience_s=PATIENCE_S)
    remove_leftovers(folder)
    if is_in_memory(folder):
        _log.warning(
            "storage_folder=%s lies in memory, so that rows there take as much of it as with storage=host; give a "
            "folder on a disk",
            folder,
        )
    return lock


def _on(nodes: Sequence[str], rank: int) -> str:
    return "" if len(set(nodes)) == 1 else f" on {nodes[rank]}"
