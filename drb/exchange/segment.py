"""A segment of memory that the ranks of a node share: opened together, and if one rank cannot, refused on all."""

from __future__ import annotations

from collections.abc import Sequence

from drb.buffer.storage import SharedSegment
from drb.distributed.peers import Peers
from drb.machine import SHM_DIRECTORY, free_shared_memory_bytes, require_memory


def open_segment(
    peers: Peers, num_words: int, own: Sequence[tuple[int, int]], folder: str | None = None
) -> SharedSegment:
    """A zeroed segment of so many 64-bit words without a name. Collective over peers, which must share one node.

    own: (start, length) in words of the parts that this rank backs with memory, which then lie on its NUMA node.
    folder: where it is a file on a disk; None: in shared memory. The first rank's counts.

    Raises:
        ValueError: on every rank, what the first that has a complaint says.
    """
    size_bytes = max(num_words, 1) * 8  # an empty file cannot be mapped
    segment = _map(peers, size_bytes, folder)
    problem = ""
    try:
        for start, length in own:
            segment.reserve(start * 8, length * 8)
    except (OSError, ValueError) as error:
        problem = f"rank {peers.rank}: {error}"
    try:
        peers.raise_any(problem, "segment")
    finally:
        segment.unlink()
    return segment


def _map(peers: Peers, size_bytes: int, folder: str | None) -> SharedSegment:
    """Created by the group's first rank, attached by the others."""
    segment, problem, kind = None, "", SharedSegment
    if folder is not None:
        from drb.buffer.storage.mapped import FileSegment  # seldom needed

        kind = FileSegment
    if peers.rank == 0:
        try:
            if folder is None:
                require_memory(size_bytes, free_shared_memory_bytes(), f"shared memory ({SHM_DIRECTORY})")
            segment = kind.create(size_bytes, folder or SHM_DIRECTORY)
        except ValueError as error:
            problem = str(error)
        except OSError as error:
            problem = (
                str(error) if folder is None else f"storage=mmap: no file can be made in {folder}: {error.strerror}"
            )
    path, problem = peers.gather_json([segment.path if segment else "", problem], "segment name")[0]
    if problem:
        raise ValueError(problem if folder else f"{problem}; or set exchange=collective")
    if segment is None:
        try:
            segment = kind.attach(path, size_bytes)
        except OSError as error:
            problem = f"rank {peers.rank} cannot open {path}: {error.strerror}"
    try:
        peers.raise_any(problem, "segment")
    except ValueError:
        if segment is not None:
            segment.unlink()
        raise
    assert segment is not None
    return segment
