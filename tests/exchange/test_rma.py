"""exchange=rma on ranks that a real mpiexec has started: the contract of all exchanges, and the same results."""

from __future__ import annotations

import os
import signal
from unittest import mock

import numpy as np
import pytest
from exchange.test_contract import use
from mpiexec import missing, run_mpi
from ranks import run_ranks
from rehearsal.erasure.test_proof import forget_all
from rehearsal.ranks.test_ends import lose_a_peer, uneven
from rehearsal.ranks.test_equality import CASES, train

from drb.exchange import open_peers, window
from drb.exchange.window import Window

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "MPI is there")


@pytest.mark.parametrize(
    ("world_size", "cases"), [(2, CASES[2:3]), pytest.param(4, CASES[:1], marks=pytest.mark.full)], ids=["2", "4"]
)
def test_contract_equality_with_collective_and_forgetting(world_size, cases, tmp_path):
    calls = [(train, (asynchronous, "rma", *case, asynchronous)) for case in cases for asynchronous in (False, True)]
    contract, *trained, held = run_mpi(
        world_size,
        *[(use, ("rma",)), *calls],
        (forget_all, (tmp_path / "run", {"exchange": "rma", "asynchronous": True})),
        tmp_path=tmp_path,
    )
    assert all({"blocks", "rows"} <= kinds for kinds in held)  # of a forgotten sample nothing is left in windows
    assert contract == [[]] * world_size
    for case, inline, asynchronous in zip(cases, trained[::2], trained[1::2], strict=True):
        assert inline == asynchronous == run_ranks(train, world_size, False, "collective", *case, False)


def windows(rank, world_size):
    """Reads of several owners and widths at once, freed and made anew."""
    peers, wrong = open_peers(None, 20.0), 0
    for size in (0, 5000 + rank):
        mine = Window(peers, size)
        mine.words[:] = np.arange(size) * 10 + rank
        mine.sync()
        peers.barrier("filled")
        mine.sync()
        if size:
            owners, offsets = np.array([0, 0, world_size - 1]), np.array([7, 0, 4000])
            out = np.empty((3, 900), np.int64)
            mine.read(owners, offsets, out)
            wrong += int((out != (offsets[:, None] + np.arange(900)) * 10 + owners[:, None]).sum())
        peers.barrier("read")
        mine.free()
    return wrong


def refusal(rank, world_size, size_words=1000, free_bytes=None):
    free = window.free_shared_memory_bytes if free_bytes is None else lambda: free_bytes
    try:
        with mock.patch.object(window, "free_shared_memory_bytes", free):
            Window(open_peers(None, 20.0), size_words if rank == 1 else 1000)
    except ValueError as error:
        return str(error)


def test_windows(tmp_path):
    calls = [(windows, ()), (refusal, (1 << 50,)), (refusal, (1000, 1 << 20)), (uneven, ("error", "rma", True))]
    wrong, *refused, told = run_mpi(3, *calls, tmp_path=tmp_path)
    assert wrong == [0, 0, 0]
    assert all("ranks [1] stopped after 6 steps while ranks [0, 2] go on" in message for message in told)
    for messages, reason in zip(refused, ("need 8589934592 MiB", "/dev/shm has 1 MiB left"), strict=True):
        assert len(set(messages)) == 1  # alike on all ranks
        assert messages[0].startswith("exchange=rma, rank 0: the windows of this node's ranks")
        assert reason in messages[0]


def lose_and_say(rank, world_size, how):
    message, seconds = lose_a_peer(rank, world_size, "rma", True, how, 3.0)
    print(f"rank {rank} after {seconds:.0f} s: {message}", flush=True)
    os._exit(3)  # as the program does: MPI_Finalize would wait for the dead


@pytest.mark.parametrize(
    ("how", "said"),
    [(signal.SIGKILL, "BAD TERMINATION"), (signal.SIGSTOP, "rank 1 did not arrive")],
    ids=["killed", "stopped"],
)
def test_a_lost_rank_ends_the_others_in_time(how, said, tmp_path):
    """mpiexec sees that a rank was killed; that one stalls, the others see. The first that ends takes all along."""
    with pytest.raises(AssertionError) as failure:
        run_mpi(3, (lose_and_say, (how,)), tmp_path=tmp_path, timeout=30)
    assert "did not end in" not in str(failure.value)
    assert said in str(failure.value)


def test_ranks_that_mpi_did_not_start_are_refused():
    for message in run_ranks(refusal, 2):
        assert message.startswith("exchange=rma needs all ranks in one MPI world, but MPICH")
        assert "sees 2 worlds of 1" in message


def test_reads_that_need_the_owners_help_are_refused(tmp_path):
    over_tcp = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp", "FI_PROVIDER": "tcp"}
    (messages,) = run_mpi(2, (refusal, ()), tmp_path=tmp_path, **over_tcp)
    assert all("MPIR_CVAR_ASYNC_PROGRESS=1" in message for message in messages)
