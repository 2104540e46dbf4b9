"""Rows in the memory of simulated GPUs that real ranks share: equal to rows in shared host memory, bit for bit."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ranks import collect_ranks, run_ranks
from rehearsal.cuda.loops import CAPACITY, Loop, minibatch
from rehearsal.cuda.races import NoJudge
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.cuda.simulated_ipc import Memory, SimulatedIpc

from drb import Rehearsal
from drb.rehearsal.cuda import DeviceRing, DeviceSide

DEVICE = {"storage": "device"}
WAYS = (
    {},
    {"use_step": True, "asynchronous": False},
    {"depth": 2, "interval": 3},
    {"admission": "fifo", "depth": 2, "max_age": 4},
    {"admission": "class_balanced", "proportions": "balanced", "draws": 2, "use_step": True},
)


class Quick(SimulatedGpu):
    """Without a judge."""

    def __init__(self, **options):
        super().__init__(**options)
        self._judge = NoJudge()


def results(rank, world_size, gpu, **settings):
    storage = {"storage": "host"} if gpu is None else DEVICE
    loop = Loop(gpu, rank=rank, world_size=world_size, steps=12, **storage, **settings)
    with loop.rehearsal:
        loop.run()
        return loop.result()


def on_host_and_devices(rank, world_size, ways):
    """What loops saw, on the host and on simulated GPUs: all late, and in the first ways some early."""
    found = []
    for number, settings in enumerate(ways):
        gpus = [None, SimulatedGpu() if number == 0 else Quick()]
        gpus += [Quick(is_early=rank % 2 == number)] * (number < 2)
        found.append([results(rank, world_size, gpu, **settings) for gpu in gpus])
    return found


@pytest.mark.parametrize(("world_size", "ways"), [(2, WAYS), (3, WAYS[2:4])])
def test_the_ranks_of_a_node_read_one_anothers_rows_in_gpu_memory(world_size, ways):
    for ranks in run_ranks(on_host_and_devices, world_size, ways):
        for host, *devices in ranks:
            assert host[1] >= 15
            assert all(device == host for device in devices)


def without_each_wait(rank, world_size):
    """Whether loops are right, and how much of the gathers is to be done when a round is announced."""
    unread, expected = [], results(rank, world_size, None, admission="fifo")

    def loop_of(gpu, **settings):
        settings = {"admission": "fifo", "steps": 12, "asynchronous": False, **DEVICE, **settings}
        loop = Loop(gpu, rank=rank, world_size=world_size, **settings)
        loop.step(0)
        parts, queued = loop.rehearsal._running.parts, [0]
        stream, fetch, gather = parts.outlet.side.stream, parts.outlet.fetch, parts.exchange.gather_counts

        def told_fetch(*arguments):
            fetch(*arguments)
            queued[0] = len(stream.work)

        def told_gather(message):
            unread.append(queued[0] - stream.done)
            return gather(message)

        parts.outlet.fetch, parts.exchange.gather_counts = told_fetch, told_gather
        loop.run(1)
        with loop.rehearsal:
            return loop.result()

    found = [loop_of(SimulatedGpu()) == expected]
    most = [max(unread)]
    with pytest.MonkeyPatch.context() as patch:
        unread.clear()
        patch.setattr(DeviceRing, "prepare", lambda ring: ring.side.land())
        loop_of(SimulatedGpu(), admission="reservoir", steps=30)  # some rounds wait for no write behind the gathers
        most.append(max(unread))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceSide, "land", lambda side: side.landing.land(wait=False))
        if rank:  # what runs this rank's stream comes later than what rank 0 reads
            see = Loop._see
            patch.setattr(Loop, "_see", lambda loop, values: (time.sleep(0.03), see(loop, values)))
        found.append(loop_of(SimulatedGpu()) == expected)
    return found, most


def test_both_waits_are_needed():
    first, second = run_ranks(without_each_wait, 2)
    assert first[0] == [True, False]
    assert second[0][0]
    for _, (unread, without_wait) in (first, second):
        assert unread <= 0 < without_wait


def what_goes_on_between_steps(rank, world_size):
    """States, forgetting and edits, on the host and on late GPUs."""
    found = []
    for gpu in (None, Quick()):
        storage = {"storage": "host"} if gpu is None else DEVICE
        loop = Loop(gpu, rank=rank, world_size=world_size, depth=2, steps=20, **storage)
        loop.run(0, 8)
        gone = loop.ids[::3].tolist()
        stored = [int(sample) for sample in loop.rehearsal.sample_ids() if sample in gone]
        loop.rehearsal.forget(gone)
        if gpu is not None:
            assert stored
            assert not any(bytes_of(sample) in loop_memory(loop) for sample in stored)
        loop.run(8, 12)
        with loop.rehearsal.edit() as edit:
            first = next(iter(edit.stored("logits")))
            edit.rewrite("logits", first.fields["logits"] + 1, first.sample_id)
        loop.run(12, 16)
        state = loop.rehearsal.state_dict()
        other = Quick() if gpu is None else None
        goes_on = Loop(
            other, rank=rank, world_size=world_size, depth=2, steps=20, storage="device" if other else "host"
        )
        goes_on.seen, goes_on.exemplars = loop.seen.copy(), loop.exemplars
        goes_on.rehearsal.load_state_dict(state)
        for each in (loop, goes_on):
            with each.rehearsal:
                each.run(16)
                found.append(each.result())
        found.append([np.asarray(state["buffer"]["rows"]).tolist(), np.asarray(state["fetched"]["rows"]).tolist()])
    return found


def loop_memory(loop):
    """All bytes of this rank's rows."""
    return loop.rehearsal._running.parts.buffer.rows.there.numpy().tobytes()


def bytes_of(sample):
    return minibatch(np.array([sample]))["image"].numpy().tobytes()


def test_states_edits_and_forgetting_are_those_of_rows_on_the_host():
    for host, from_host, host_state, device, from_device, device_state in run_ranks(what_goes_on_between_steps, 2):
        assert host == from_host == device == from_device
        assert host_state == device_state


def refusals(rank, world_size):
    """What is said where rows cannot be shared, and that nothing is left then."""
    said = []

    def try_out(gpu=None, **settings):
        gpu = gpu or SimulatedGpu()
        ipc = SimulatedIpc(gpu)
        gpu.ipc = lambda: ipc
        with Rehearsal(CAPACITY, 5, verbose=False, **{"device": gpu, **DEVICE, **settings}) as rehearsal:
            with pytest.raises(ValueError) as caught:  # compared where they are all known
                rehearsal.extend({"x": torch.zeros(2, 3), "sample_id": torch.arange(2) * 2 + rank})
            said.append(str(caught.value))
        assert not ipc.opened
        assert ipc.memory is None or ipc.memory.freed
        assert ipc.memory is None or not os.path.exists(ipc.memory.handle)

    def fail(message, error=RuntimeError):
        def call(*arguments):
            raise error(message)

        return call

    try_out(exchange="collective")
    try_out(device=None if rank else SimulatedGpu())
    full = SimulatedGpu()
    full.free = 2000
    try_out(full)
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.setattr(SimulatedIpc, "open", fail("no access"))
        try_out()
    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            other = Memory(SimulatedGpu(), CAPACITY, 64)
            patch.setattr(SimulatedIpc, "open", lambda ipc, _, open_=SimulatedIpc.open: open_(ipc, other.handle))
        try_out()
    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            patch.setattr(SimulatedGpu, "ipc", fail("a MIG partition", ValueError))
        with Rehearsal(CAPACITY, 5, verbose=False, device=SimulatedGpu(), **DEVICE) as rehearsal:
            with pytest.raises(ValueError, match="a MIG partition") as caught:
                rehearsal.extend({"x": torch.zeros(2, 3), "sample_id": torch.arange(2) * 2 + rank})
            said.append(str(caught.value))
    return said


def test_what_cannot_be_shared_is_refused_on_all_ranks_and_leaves_nothing():
    first, second = run_ranks(refusals, 2)
    assert first == second
    for got, expected in zip(
        first,
        [
            "storage=device has ranks read each other's rows in GPU memory, not by exchange=collective: set exchange",
            "storage=device needs exemplars on a GPU, and ranks [1] have theirs on the host: give minibatches",
            "storage=device: the rehearsal buffers of 2 ranks need",
            "storage=device: rank 1: the rows of rank 0 cannot be read: no access; or set storage=host",
            "storage=device: rank 0: what rank 1 wrote into its rows was read wrong; or set",
            "storage=device: rank 0: a MIG partition; or set storage=host",
        ],
        strict=True,
    ):
        assert got.startswith(expected)


def ends(rank, world_size, how):
    gpu = SimulatedGpu(is_early=True)
    loop = Loop(gpu, rank=rank, world_size=world_size, **DEVICE)
    with loop.rehearsal:
        loop.run(0, 6)
        if how == "well":
            ipc = gpu.shared[-1]
            assert ipc.opened
            loop.rehearsal.close()
            return bool(ipc.opened), ipc.memory.freed
        if rank == 1 and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1:
            raise MemoryError("on purpose")
        loop.run(6)
    return None


def test_memory_is_given_back_once_nobody_reads_it_and_not_before():
    with ThreadPoolExecutor() as pool:  # they wait, mostly
        well = pool.submit(run_ranks, ends, 2, "well")
        killed, badly = (pool.submit(collect_ranks, ends, 2, how, patience=10) for how in ("killed", "badly"))
    assert well.result() == [(False, True)] * 2
    _, failures = killed.result()
    assert "rank 1 did not arrive and sends no heartbeat" in failures[0]
    _, failures = badly.result()
    assert "MemoryError: on purpose" in failures[1]
    assert "rank 1 failed: its training loop, step 6: MemoryError: on purpose" in failures[0]


def no_ipc():
    raise RuntimeError("no IPC here")


def auto(rank, world_size, identities, free, is_readable=True):
    """What `auto` chooses, and the sample ids that come back."""
    gpu = Quick(is_early=True)
    gpu.identity, gpu.free = identities[rank], free[rank]
    if not is_readable:
        gpu.ipc = no_ipc
    loop = Loop(gpu, rank=rank, world_size=world_size, storage="auto", steps=6)
    loop.run()
    with loop.rehearsal:
        return loop.rehearsal.describe().split("; ")[-2], str(loop.result())


def auto_ways(rank, world_size):
    plenty, little = 1 << 30, 30_000  # two buffers take 9,000
    return [
        auto(rank, world_size, *way)
        for way in (
            ("aa", [plenty] * 2),
            ("aa", [plenty, little]),
            ("ab", [plenty] * 2),
            ("aa", [plenty] * 2, rank == 1),
        )
    ]


def test_auto_is_the_same_on_all_ranks_and_changes_no_draw():
    ranks = run_ranks(auto_ways, 2)
    said = [[why for why, _ in ways] for ways in ranks]
    assert said[0] == said[1]
    assert said[0][0] == "storage device (auto: at most 0.25 of what is free)"
    assert said[0][1].startswith("storage host (auto: device would take 8.75 KiB of GPU a, 29.3 KiB are free")
    assert said[0][2] == "storage host (auto: device has not been tried between GPUs)"
    assert said[0][3].startswith("storage host (auto: rank 0: no IPC")
    for ways in ranks:
        assert len({result for _, result in ways}) == 1
