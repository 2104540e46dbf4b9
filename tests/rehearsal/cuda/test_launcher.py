"""The order of a launched exchange on one rank: right whatever the device does first, and every wait is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rehearsal.cuda.loops import bare_side
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.cuda.waits import needed_waits

from drb.buffer.record import HEADER_WORDS
from drb.rehearsal.cuda import RowLauncher

WAYS = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])
ROWS, WORDS, ROUNDS, DEPTH = 4, HEADER_WORDS + 2, 9, 2


class OneRank:
    """The exchange and the backend of a rank that asks itself. Row number n holds n in all its words."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.host_memory = []  # what the worker writes by numpy, and so unseen, once it has been told what to send
        self.rows = np.repeat(np.arange(1000)[:, None], WORDS, axis=1)

    def ask(self, owners, positions):
        self.gpu.host_writes(*self.host_memory)
        count = np.array([len(positions)])
        return count, count, positions

    def all_to_all(self, received, sent, received_rows, sent_rows):
        assert received_rows == sent_rows == [len(sent)]
        self.gpu.run(self.gpu.current(), "all_to_all", [sent], [received], lambda: received.copy_(sent))


def fetch(rank, launcher, owners, positions, block):
    """Fetch, and tell the judge of what the worker writes into page-locked memory after its wait."""
    rank.host_memory = [launcher._gathered[block][: len(positions)]]
    if (owners[1:] < owners[:-1]).any():
        rank.host_memory.append(launcher._orders[block, : len(positions)])
    launcher.fetch(owners, positions, block)


def wanted(number, rows):
    """Owners and positions of a round, whose rows are out of order in every other one."""
    owners = np.zeros(rows, np.int64)
    owners[0] = number % 2
    return owners, 10 * number + np.arange(rows)


def run_rounds(gpu, rows=ROWS, read_headers=True):
    """Rounds on a worker, launched by the training thread one step before they are read."""
    blocks = np.zeros((DEPTH + 1, ROWS, WORDS), np.int64)
    rank, read, headers = OneRank(gpu), [], []
    launcher = RowLauncher(bare_side(gpu), rank, rank, blocks)
    with gpu.thread("training"):
        for step in range(ROUNDS):
            if step >= DEPTH - 1:
                launcher.launch()  # of round step - DEPTH + 1
            launcher.mark(step % (DEPTH + 1))
            gpu.hand_over("training", "worker")
            with gpu.thread("worker"):
                fetch(rank, launcher, *wanted(step, rows), step % (DEPTH + 1))
            gpu.hand_over("worker", "training")
            if step >= DEPTH:
                block = (step - DEPTH) % (DEPTH + 1)
                launcher.receive(block)
                seen = gpu.empty((rows, WORDS), torch.int64)
                gpu.copy_all([seen], [launcher.blocks[block, :rows]])
                read.append(seen)
                if read_headers:
                    launcher.fill_headers(block, rows)
                    gpu.host_reads(launcher._headers[block, :rows])
                    headers.append(blocks[block, :rows, 0].tolist())
        return [gpu.get(values)[:, -1].tolist() for values in read], headers


def expected(number, rows=ROWS):
    return wanted(number, rows)[1].tolist()


@WAYS
def test_every_round_is_read_as_it_was_asked_for(is_early):
    rows, headers = run_rounds(SimulatedGpu(is_early=is_early))
    assert rows == headers == [expected(number) for number in range(ROUNDS - DEPTH)]


@WAYS
def test_more_rows_than_a_share(is_early):
    blocks = np.zeros((3, ROWS, WORDS), np.int64)
    gpu = SimulatedGpu(is_early=is_early)
    rank = OneRank(gpu)
    launcher = RowLauncher(bare_side(gpu), rank, rank, blocks)
    launcher._grow(1, 10)
    assert [len(memory) for memory in launcher._outgoing] == [4, 10, 4]
    assert gpu.owns(launcher._outgoing[1])
    assert not gpu.owns(launcher._gathered[1])


@WAYS
@pytest.mark.parametrize("read_headers", [False, True])
def test_every_wait_is_needed(is_early, read_headers):
    """Where headers are read, waiting for them tells that the memory behind older rounds is free."""
    found = needed_waits(lambda gpu: run_rounds(gpu, read_headers=read_headers), is_early=is_early)
    launched, again = ROUNDS - DEPTH + 1, ROUNDS - DEPTH - 1  # `again`: into blocks that were used before
    assert found["synchronize"] == (ROUNDS - DEPTH if read_headers else again)
    assert found["wait_event"] == 2 * launched  # `loaded` before the rows, the rows before the copy of their headers


def test_a_block_that_is_being_read_is_not_launched_into():
    gpu = SimulatedGpu()
    rank = OneRank(gpu)
    launcher = RowLauncher(bare_side(gpu), rank, rank, np.zeros((1, ROWS, WORDS), np.int64))
    for number in (0, 1):
        launcher.fetch(*wanted(number, ROWS), 0)
    launcher.launch()
    with pytest.raises(AssertionError, match="rows launched into block 0, which is being read"):
        launcher.launch()
