"""Exemplars on their way to a device: right whatever the device does first, and every wait is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rehearsal.cuda.simulated import SimulatedGpu, needed_waits

from drb.rehearsal.cuda import DeviceRing

WAYS = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])
ROWS, WORDS = 3, 6


class Rows:
    """An exchange of one rank whose rows tell the round; the host's write is told to the judge."""

    def __init__(self, gpu):
        self.gpu = gpu

    def fetch(self, owners, positions, out):
        self.gpu.host_writes(torch.from_numpy(out))
        out[:] = positions[:, None]


def run_rounds(gpu, depth, rounds=8):
    """Rounds on a worker, `depth` ahead of the training thread, which says what it read in each."""
    blocks = np.zeros((depth + 1, ROWS, WORDS), np.int64)
    ring, read = DeviceRing(gpu, Rows(gpu), blocks), []

    def fetch(number):
        gpu.hand_over("training", "worker")
        with gpu.thread("worker"):
            block = number % (depth + 1)
            ring.fetch(np.zeros(ROWS, np.int64), np.full(ROWS, 100 + number), block)
        gpu.hand_over("worker", "training")

    with gpu.thread("training"):
        for step in range(rounds):
            ring.mark(step % (depth + 1))  # read by now: what the round of this step writes over
            fetch(step)
            if step >= depth:
                block = (step - depth) % (depth + 1)
                ring.receive(block)
                seen = gpu.empty((ROWS, WORDS), torch.int64)
                gpu.concatenate([ring.blocks[block]], seen)
                read.append(seen)
        return [int(gpu.get(values).unique().item()) for values in read]


@WAYS
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_round_is_read_as_it_was_fetched(is_early, depth):
    assert run_rounds(SimulatedGpu(is_early=is_early), depth) == [100 + n for n in range(8 - depth)]


@WAYS
@pytest.mark.parametrize("depth", [1, 2])
def test_every_wait_is_needed(is_early, depth):
    """Of those from the time on that blocks are used again; before, there is nothing to wait for."""
    again = 8 - (depth + 1)  # rounds into blocks that were used before
    found = needed_waits(lambda gpu: run_rounds(gpu, depth), is_early=is_early)
    assert found == {"synchronize": again, "wait_event": again + 8 - depth}


@WAYS
def test_the_training_thread_waits_for_nothing(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    run_rounds(gpu, 2)
    assert gpu.waited_on == {"worker"}


@WAYS
def test_settle_and_erase_leave_zeros(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    blocks = np.zeros((2, ROWS, WORDS), np.int64)
    ring = DeviceRing(gpu, Rows(gpu), blocks)
    for block in (0, 1):
        ring.fetch(np.zeros(ROWS, np.int64), np.full(ROWS, 7), block)
    ring._settle()
    assert (ring.blocks == 7).all()
    ring.erase()
    assert not ring.blocks.any()
    assert not blocks.any()


@WAYS
def test_the_worker_makes_it_its_device(is_early):
    gpu = SimulatedGpu(is_early=is_early)
    run_rounds(gpu, 1)
    assert gpu.calls["enter"] >= 8
