"""Rows between devices, by real ranks whose second Gloo group is in NCCL's place."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from ranks import collect_ranks, run_cases, run_ranks
from rehearsal.cuda.loops import CAPACITY, Loop, run_loop
from rehearsal.cuda.simulated import SimulatedGpu

from drb import Rehearsal

AHEAD = [(2, 1), (3, 1), (2, 3)]  # depth, interval
STEPS = 20


def train(rank, world_size, exchange, settings, full_ranks=None):
    """What a loop saw, on the host or, with nccl, on a simulated GPU; and what it launched."""
    gpu = SimulatedGpu(is_early=True) if exchange == "nccl" else None
    rows = 8 if full_ranks is None or rank in full_ranks else 0
    loop = Loop(gpu, rank=rank, world_size=world_size, exchange=exchange, rows=rows, steps=STEPS, **settings)
    with loop.rehearsal:
        loop.run()
        outlet = loop.rehearsal._running.parts.outlet
        launches = list(outlet._backend.log) if exchange == "nccl" and world_size > 1 else []
        return loop.result(), launches


@pytest.mark.parametrize(
    ("world_size", "depth", "interval", "use_step"),
    [
        pytest.param(*(world_size, *ahead, use_step), marks=() if (world_size, use_step) == of else pytest.mark.full)
        for ahead, of in zip(AHEAD, [(2, True), (3, True), (3, False)], strict=True)
        for world_size in (2, 3)
        for use_step in (False, True)
    ],
)
def test_rows_are_those_of_every_other_exchange(world_size, depth, interval, use_step):
    settings = {"depth": depth, "interval": interval, "use_step": use_step}
    expected, got = run_cases(train, world_size, {x: (x, settings) for x in ("collective", "nccl")}).values()
    assert [result for result, _ in got] == [result for result, _ in expected]
    assert min(result[1] for result, _ in got) > 50
    check_launches([launches for _, launches in got])


def on_both(rank, world_size):
    """What loops saw on the host, and on simulated GPUs that read the other rank's rows, or are sent them."""
    results = []
    for exchange in ("shared", "collective"):
        for settings in ({"use_step": True, "asynchronous": False}, {"depth": 2, "interval": 3}):
            loops = []
            for gpu in (None, SimulatedGpu(is_early=exchange == "shared")):
                loop = Loop(gpu, rank=rank, world_size=world_size, exchange=exchange, steps=14, **settings)
                with loop.rehearsal:
                    loop.run()
                    loops.append(loop.result())
            results.append(loops)
    return results


def test_gpus_read_the_rows_of_the_nodes_other_ranks():
    for results in run_ranks(on_both, 2):
        for host, *devices in results:
            assert host[1] > 10
            assert all(device == host for device in devices)


@pytest.mark.parametrize(
    ("full_ranks", "interval"),
    [((1,), 3), ((0, 2), 1), *(pytest.param(*case, marks=pytest.mark.full) for case in [((1,), 1), ((0, 2), 3)])],
)
def test_ranks_that_hold_nothing(full_ranks, interval):
    settings = {"depth": 2, "interval": interval}
    cases = {exchange: (exchange, settings, full_ranks) for exchange in ("collective", "nccl")}
    expected, got = run_cases(train, 3, cases).values()
    assert [result for result, _ in got] == [result for result, _ in expected]
    launches = [launches for _, launches in got]
    check_launches(launches)
    sent = np.array([[sum(sent) for _, _, sent in of_rank] for of_rank in launches])
    assert (sent.sum(axis=1) > 0).tolist() == [rank in full_ranks for rank in range(3)]
    assert sent.max() > 5 * interval  # more than a rank's share: memory had to grow


def check_launches(launches):
    """Only by the training thread, as many on every rank, each fitting those of the others."""
    assert {thread for of_rank in launches for thread, _, _ in of_rank} == {"MainThread"}
    assert len({len(of_rank) for of_rank in launches}) == 1
    for together in zip(*launches, strict=True):
        received = np.array([received for _, received, _ in together])
        sent = np.array([sent for _, _, sent in together])
        assert (received == sent.T).all()


def test_one_rank_needs_no_launches():
    expected = run_loop(None, depth=2)
    assert run_loop(SimulatedGpu(), depth=2, exchange="nccl") == expected


def inline_and_async(rank, world_size):
    return [train(rank, world_size, "nccl", {"depth": 2, "asynchronous": a})[0] for a in (False, True)]


def test_inline_and_asynchronous_rounds_agree():
    for inline, asynchronous in run_ranks(inline_and_async, 2):
        assert inline == asynchronous


def resume(rank, world_size, interval):
    """A run that was saved in between and goes on elsewhere; and one that was not. `fetched` is compared as well."""
    settings = {"rank": rank, "world_size": world_size, "depth": 2, "interval": interval, "steps": STEPS}
    whole = Loop(SimulatedGpu(is_early=True), exchange="nccl", **settings)
    whole.run()
    first = Loop(SimulatedGpu(is_early=True), exchange="nccl", **settings)
    host = Loop(None, exchange="collective", **settings)
    for loop in (first, host):
        loop.run(0, 11)
    state, expected = first.rehearsal.state_dict(), host.rehearsal.state_dict()
    assert (state["fetched"]["rows"] == expected["fetched"]["rows"]).all()
    first.run(11)  # saving disturbs nothing
    assert first.result() == whole.result()
    second = Loop(SimulatedGpu(is_early=True), exchange="nccl", **settings)
    second.seen, second.exemplars = host.seen, host.exemplars
    second.rehearsal.load_state_dict(state)
    second.run(11)
    assert second.result() == whole.result()
    for loop in (whole, first, host, second):
        loop.rehearsal.close()


@pytest.mark.parametrize("interval", [1, 3])
def test_a_state_holds_rows_that_are_on_devices_only(interval):
    run_ranks(resume, 2, interval)


def forget(rank, world_size, exchange):
    gpu = SimulatedGpu(is_early=True) if exchange == "nccl" else None
    loop = Loop(gpu, rank=rank, world_size=world_size, exchange=exchange, depth=2)
    loop.run(0, 12)
    gone = loop.ids[::3].tolist()
    loop.rehearsal.forget(gone)
    loop.run(12)
    result = loop.result()
    loop.rehearsal.close()
    assert not set(gone) & set(result[2])
    return result


def test_forgetting_between_launches():
    expected, got = run_cases(forget, 2, {exchange: (exchange,) for exchange in ("collective", "nccl")}).values()
    assert got == expected


def launch_elsewhere(rank, world_size):
    loop = Loop(SimulatedGpu(is_early=True), rank=rank, world_size=world_size, exchange="nccl", depth=2)
    loop.run(0, 5)
    caught = []

    def step():
        try:
            loop.step(5)
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    return caught


def test_a_launch_from_another_thread_is_refused():
    for caught in run_ranks(launch_elsewhere, 2):
        assert "rows are launched by the thread that trains" in caught[0]


def one_ends_early(rank, world_size):
    loop = Loop(SimulatedGpu(is_early=True), rank=rank, world_size=world_size, exchange="nccl", depth=2)
    with loop.rehearsal:
        loop.run(0, 9 if rank else 12)


def test_a_rank_that_ends_early_is_named_and_hangs_nobody():
    _, failures = collect_ranks(one_ends_early, 2, patience=5)
    assert all("ranks [1] stopped after 9 steps" in text for text in failures.values())
    assert set(failures) == {0, 1}


def on_the_host(rank, world_size):
    rehearsal = Rehearsal(CAPACITY, 5, exchange="nccl", depth=2, verbose=False, device=SimulatedGpu() if rank else None)
    with pytest.raises(ValueError, match=r"exchange=nccl .* ranks \[0\] have their exemplars on the host"):
        rehearsal.extend({"x": torch.zeros(2, 3), "sample_id": torch.arange(2)})


def test_ranks_without_a_device_are_named_on_all():
    run_ranks(on_the_host, 2)


def test_nccl_needs_rounds_ahead():
    with pytest.raises(ValueError, match="exchange=nccl needs 2 rounds in flight: depth must be at least 2, got 1"):
        Rehearsal(CAPACITY, 5, exchange="nccl")
