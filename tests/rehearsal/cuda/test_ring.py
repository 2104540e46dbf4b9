"""Exemplars on their way to a device: right whatever the device does first, and every wait is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.cuda.waits import needed_waits

from drb.buffer.record import HEADER_WORDS, RecordSpec
from drb.rehearsal.cuda import DeviceRing, DeviceSide
from drb.rehearsal.cuda.lanes import ID

WAYS = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])
PATHS = pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "by messages"])
ROWS, SPEC = 3, RecordSpec({"x": (torch.int64, (4,)), "y": (torch.uint8, (3,))})


class Rows:
    """An exchange of one rank whose rows tell the round: row number n holds n, as far as that goes."""

    def __init__(self, gpu, is_direct):
        self.gpu = gpu
        self.rows = self.reachable = np.zeros((120, SPEC.words), np.int64)
        self.rows[:, 0] = np.arange(120)  # the header's sample id
        for name, values in SPEC.views(self.rows).items():
            values[:] = torch.arange(120)[:, None].to(values.dtype)
            assert name in ("x", "y")
        self.direct = self if is_direct else None

    def locate(self, owners, positions):
        return positions

    def fetch(self, owners, positions, out):
        self.gpu.host_writes(torch.from_numpy(out))
        out[:] = self.rows[positions]


def ring_of(gpu, depth, is_direct):
    exchange = Rows(gpu, is_direct)
    side = DeviceSide(gpu, SPEC, exchange, max_rows=4, places=depth + 1, has_peers=False)
    ring = DeviceRing(side, exchange, np.zeros((depth + 1, ROWS, SPEC.words), np.int64))
    gpu._pinned.add(ring._pinned.untyped_storage().data_ptr())
    return ring


def fetch(gpu, ring, first, block):
    """On the worker. The judge is told of what is written by numpy: what the round before has gathered is retired."""
    ring.prepare()
    if ring._passing is None:
        gpu.host_writes(ring._pinned_index[block])
        gpu.host_writes(
            *(torch.from_numpy(ring._exchange.rows[row : row + 1]) for row in range(max(first - 10, 0), first))
        )
    ring.fetch(np.zeros(ROWS, np.int64), np.arange(first, first + ROWS), block)


def run_rounds(gpu, depth, is_direct, rounds=8):
    """Rounds on a worker, `depth` ahead of the training thread, which says what it read in each."""
    ring, read = ring_of(gpu, depth, is_direct), []
    with gpu.thread("training"):
        for step in range(rounds):
            ring.mark(step % (depth + 1))  # read by now: what the round of this step writes over
            if step >= depth:
                block = (step - depth) % (depth + 1)
                ring.receive(block)
                fields = ring.fields[block]
                seen = {name: gpu.empty(value.shape, value.dtype) for name, value in fields.items()}
                for name, value in fields.items():
                    gpu.copy_all([seen[name]], [value])
                read.append(seen)
            gpu.hand_over("training", "worker")
            with gpu.thread("worker"):
                fetch(gpu, ring, 10 * step, step % (depth + 1))
            gpu.hand_over("worker", "training")
        return [{name: gpu.get(value) for name, value in seen.items()} for seen in read]


@WAYS
@PATHS
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_round_is_read_as_it_was_fetched(is_early, is_direct, depth):
    for number, seen in enumerate(run_rounds(SimulatedGpu(is_early=is_early), depth, is_direct)):
        wanted = torch.arange(10 * number, 10 * number + ROWS)
        assert seen[ID].equal(wanted)
        assert seen["x"].equal(wanted[:, None].expand(ROWS, 4))
        assert seen["y"].equal(wanted[:, None].expand(ROWS, 3).to(torch.uint8))


@WAYS
@PATHS
def test_every_wait_is_needed(is_early, is_direct):
    """Of those from the time on that blocks are used again; before, there is nothing to wait for."""
    again = 8 - 2  # rounds into blocks that were used before
    found = needed_waits(lambda gpu: run_rounds(gpu, 1, is_direct), is_early=is_early)
    assert found["wait_event"] == again + 8 - 1
    assert found["synchronize"] == (8 - 1 if is_direct else again)  # rows are retired from the second round on


@WAYS
@PATHS
def test_the_training_thread_waits_for_nothing(is_early, is_direct):
    gpu = SimulatedGpu(is_early=is_early)
    run_rounds(gpu, 2, is_direct)
    assert gpu.waited_on == {"worker"}


@WAYS
@PATHS
def test_the_host_gets_the_rows_of_a_block_and_may_give_others(is_early, is_direct):
    gpu = SimulatedGpu(is_early=is_early)
    ring = ring_of(gpu, 1, is_direct)
    fetch(gpu, ring, 40, 1)
    ring.to_host(1)
    assert (ring.host_blocks[1] == ring._exchange.rows[40:43]).all()
    ring.host_blocks[0] = ring._exchange.rows[70:73]
    ring.restore(0)
    ring.receive(0)
    assert gpu.get(ring.fields[0]["x"])[:, 0].tolist() == [70, 71, 72]
    assert gpu.get(ring.fields[0][ID]).tolist() == [70, 71, 72]


@WAYS
@PATHS
def test_erase_leaves_zeros(is_early, is_direct):
    gpu = SimulatedGpu(is_early=is_early)
    ring = ring_of(gpu, 1, is_direct)
    for block in (0, 1):
        fetch(gpu, ring, 7, block)
    ring.erase()
    assert not any(value.any() for block in ring.fields for value in block.values())
    assert not ring.host_blocks.any()
    assert ring.host_blocks.shape[2] > HEADER_WORDS
