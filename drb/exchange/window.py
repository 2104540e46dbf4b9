"""Memory of every rank that its peers read by one-sided MPI operations, without the owner's help.

Passive target: each rank opens one epoch on all peers (`Lock_all`) for the window's whole life; a read is a Get and
a Flush. The owner's stores are ordinary ones. What keeps a read from meeting a write is the caller's business.

One-sidedness is not what every MPI does: over plain TCP, and with derived datatypes also over RDMA, a Get waits until
the owner's process next enters MPI, which may be never (measured with MPICH 5: 0.3 ms against 0.9 s, the time that
the owner slept). Therefore each Get is contiguous on both sides, and `Window` tries one before it is used.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from drb.distributed.mpi import library_name, load_mpi, wait_for
from drb.distributed.peers import Peers
from drb.machine import SHM_DIRECTORY, available_memory_bytes, free_shared_memory_bytes, node_name, require_memory
from drb.types import Int64Array

PROBE_S = 2.0  # a read of one row that takes longer waits for its owner to enter MPI
_PROBE_WORDS = 1024
_MPI_SHARED_BYTES = 8 << 20  # what MPI may still take of /dev/shm for itself


class Window:
    """`size_words` 64-bit words per rank (differing between ranks). Collective over peers, which it never outlives.

    Raises:
        ValueError: the ranks are in no MPI world, MPI cannot do it, or reads need the owner's help.
    """

    def __init__(self, peers: Peers, size_words: int) -> None:
        self._peers = peers
        self._mpi, self._comm, nodes = _communicator(peers)
        self._word = self._mpi.INT64_T
        self._window = _allocate(peers, self._mpi, self._comm, max(size_words, _PROBE_WORDS), nodes)
        memory: Int64Array = np.frombuffer(self._window.tomemory(), np.int64)
        memory.fill(0)  # backed by memory from now on, and on this rank's NUMA node
        self.words = memory[:size_words]
        self._window.Lock_all(self._mpi.MODE_NOCHECK)
        if not _progresses_alone(peers, self._mpi, self._comm, self._window, nodes):
            self.free()
            raise ValueError(
                f"exchange=rma: one-sided reads of this {library_name(self._mpi)} wait until their target enters MPI, "
                "so rounds would hang; with MPICH set MPIR_CVAR_ASYNC_PROGRESS=1, use a network with RDMA, or set "
                "exchange=collective"
            )

    def sync(self) -> None:
        """A memory barrier between this rank's loads and stores and its peers' reads."""
        self._window.Sync()

    def read(self, owners: Int64Array, offsets: Int64Array, out: Int64Array) -> None:
        """out[i] = the words at offsets[i] of rank owners[i]; int64 [R], [R] and [R, K]."""
        width = out.shape[1]
        for owner, offset, place in zip(owners.tolist(), offsets.tolist(), out, strict=True):
            self._window.Get((place, width, self._word), owner, (offset, width, self._word))
        for owner in np.unique(owners).tolist():
            self._window.Flush(owner)

    def free(self) -> None:
        """Collective. The memory of `words` is gone."""
        self.words = np.empty(0, np.int64)
        self._window.Unlock_all()
        self._window.Free()
        self._comm.Free()


def _communicator(peers: Peers) -> tuple[Any, Any, list[str]]:
    """MPI, a communicator in which ranks are numbered as in peers, and every rank's node."""
    mpi, problem, place = None, "", [0, 1]
    try:
        mpi = load_mpi("exchange=rma")
        place = [mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size]
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            problem = f"exchange=rma needs MPI_THREAD_MULTIPLE, which this {library_name(mpi)} does not give"
    except ValueError as error:
        problem = str(error)
    peers.raise_any(problem, "MPI ranks")
    answers = peers.gather_json([place, node_name()], "MPI ranks")
    assert mpi is not None
    mpi_ranks = [rank for (rank, _), _ in answers]
    sizes = {size for (_, size), _ in answers}
    if len(set(mpi_ranks)) < peers.world_size or len(sizes) > 1:
        raise ValueError(
            f"exchange=rma needs all ranks in one MPI world, but {library_name(mpi)} sees {peers.world_size} worlds of "
            f"{max(sizes)} here; start the ranks with its mpirun (or srun --mpi=...), or set exchange=collective"
        )
    group = mpi.COMM_WORLD.Get_group().Incl(mpi_ranks)
    return mpi, mpi.COMM_WORLD.Create_group(group), [node for _, node in answers]


def _allocate(peers: Peers, mpi: Any, comm: Any, size_words: int, nodes: list[str]) -> Any:
    """A window of MPI's own memory; a rank that cannot have it is named on all."""
    size_bytes, window, problem = size_words * 8, None, ""
    sizes = peers.gather_counts(np.array([size_bytes]))[:, 0]
    neighbours = [int(s) for s, node in zip(sizes, nodes, strict=True) if node == nodes[peers.rank]]
    try:
        require_memory(size_bytes, available_memory_bytes(), "memory")
        if len(neighbours) > 1:
            _require_shared_memory(sum(neighbours))
    except ValueError as error:
        problem = f"exchange=rma, rank {peers.rank}: {error}"
    peers.raise_any(problem, "memory")
    try:
        window = mpi.Win.Allocate(size_bytes, 8, mpi.INFO_NULL, comm)
        if window.model != mpi.WIN_UNIFIED:
            problem = "its windows are not in the processes' own memory (MPI_WIN_SEPARATE)"
    except mpi.Exception as error:
        problem = " ".join(str(error).split())
    if problem:
        problem = f"exchange=rma, this {library_name(mpi)} gives no window: {problem}; set exchange=collective"
    peers.raise_any(problem, "window")
    return window


def _require_shared_memory(needed: int) -> None:
    """MPI puts the windows of a node's ranks into /dev/shm, and where that is full, ends with SIGBUS."""
    free = free_shared_memory_bytes()
    if needed + _MPI_SHARED_BYTES > free:
        raise ValueError(
            f"the windows of this node's ranks need {needed / 2**20:.0f} MiB, {SHM_DIRECTORY} has "
            f"{free / 2**20:.0f} MiB left, of which MPI itself takes some; enlarge it (docker run --shm-size=…), lower "
            "the capacity or set exchange=collective"
        )


def _progresses_alone(peers: Peers, mpi: Any, comm: Any, window: Any, nodes: list[str]) -> bool:
    """Whether reads get through to owners that are not inside MPI; alike on all ranks.

    Every other node (on a single one: every other rank) reads from the next, which waits in Gloo meanwhile.
    """
    groups: list[Any] = nodes if len(set(nodes)) > 1 else list(range(len(nodes)))
    distinct = sorted(set(groups))
    parity = [distinct.index(group) % 2 for group in groups]
    request, stalled = mpi.REQUEST_NULL, False
    if parity[peers.rank] == 0:
        owner = next(rank for rank in _others(peers) if parity[rank] == 1)
        out = np.empty(_PROBE_WORDS, np.int64)
        request = window.Rget((out, _PROBE_WORDS, mpi.INT64_T), owner, (0, _PROBE_WORDS, mpi.INT64_T))
        deadline = time.monotonic() + PROBE_S
        while not (request.Test() or stalled):
            stalled = time.monotonic() > deadline
    if not any(peers.gather_json(stalled, "trial of one-sided reads")):
        return True
    wait_for(request, 10 * PROBE_S, "the trial of one-sided reads")
    wait_for(comm.Ibarrier(), 10 * PROBE_S, "the end of the trial")  # until then every rank is inside MPI
    return False


def _others(peers: Peers) -> list[int]:
    """The other ranks, the next one first."""
    return [(peers.rank + i) % peers.world_size for i in range(1, peers.world_size)]
