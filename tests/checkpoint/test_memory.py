"""Copies of a state that are made in the order of a GPU's work, and read by the thread that writes."""

from __future__ import annotations

import pytest
import torch
from rehearsal.cuda.simulated import SimulatedGpu
from rehearsal.cuda.waits import needed_waits

from drb.checkpoint.memory import StateMemory

WAYS = pytest.mark.parametrize("is_early", [False, True], ids=["late", "early"])


def save_twice(gpu):
    """Two checkpoints of a tensor that training changes behind each; what the writer's thread read."""
    memory, read = StateMemory(gpu), []
    there, here = gpu.put({"w": torch.ones(4)})["w"], torch.ones(3)
    memory.reserve({"w": there, "h": here})
    for _ in range(2):
        copies = memory.copy({"w": there, "h": here})
        gpu.zero(there)  # the next step of training
        here.zero_()
        gpu.hand_over("host", "writer")
        with gpu.thread("writer"):
            memory.wait()
            gpu.host_reads(copies["w"])
            read.append([copies[name].tolist() for name in ("w", "h")])
        gpu.hand_over("writer", "host")
    return read


@WAYS
def test_a_checkpoint_has_what_was_there_when_it_was_begun(is_early):
    assert save_twice(SimulatedGpu(is_early=is_early)) == [[[1.0] * 4, [1.0] * 3], [[0.0] * 4, [0.0] * 3]]


def test_no_wait_is_superfluous_or_missing():
    """The writer waits for the copies, the snapshot's way home for the snapshot; both each time."""
    late, early = (needed_waits(save_twice, is_early=is_early) for is_early in (False, True))
    assert late["synchronize"] == early["synchronize"] == 2
    assert late["wait_event"] >= 2


def test_a_snapshot_waits_until_the_one_before_was_read():
    """Without the host, which does not wait here."""

    def save(gpu):
        memory, there = StateMemory(gpu), gpu.put({"w": torch.ones(4)})
        for _ in range(3):
            memory.copy(there)

    assert needed_waits(save, is_early=False)["wait_event"] == 5


def test_training_waits_for_no_copy_and_allocates_nothing_after_the_start(monkeypatch):
    gpu = SimulatedGpu()
    memory, allocated = StateMemory(gpu), []
    for name in ("empty", "empty_pinned"):
        monkeypatch.setattr(gpu, name, record_calls(getattr(gpu, name), allocated))
    there = gpu.put({"w": torch.ones(4), "v": torch.zeros(2, 2)})
    allocated.clear()
    memory.reserve(there)
    assert len(allocated) == 2
    waited = gpu.calls["synchronize"]
    for _ in range(3):
        memory.copy(there)
    assert (len(allocated), gpu.calls["synchronize"]) == (2, waited)
    memory.erase()
    memory.copy(there)
    assert len(allocated) == 2
    assert gpu.waited_on == {"host"}, "only by erase()"


def record_calls(call, calls):
    return lambda *args: calls.append(args) or call(*args)


VARIED = {
    "channels last": torch.arange(54.0).view(2, 3, 3, 3).to(memory_format=torch.channels_last),
    "1x1": torch.arange(6.0).view(2, 3, 1, 1).to(memory_format=torch.channels_last),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "slice": torch.arange(10, dtype=torch.int32)[::3],
    "none": torch.zeros(0, 4),
    "same": torch.ones(3).expand(2, 3),
    **{f"w{number}": torch.full((number,), float(number)) for number in range(1, 9)},
}


def on_the_gpu(gpu):
    """VARIED with its strides on the GPU."""
    there = {}
    for name, value in VARIED.items():
        span = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)) + 1
        memory = gpu.empty((span,), value.dtype)
        there[name] = (
            memory.as_strided(value.shape, value.stride()) if value.numel() else gpu.empty((0, 4), value.dtype)
        )
        there[name].copy_(value) if name != "same" else memory.fill_(1)
    return there


@WAYS
@pytest.mark.parametrize("has_room", [True, False], ids=["snapshot", "no room"])
def test_copies_have_every_value_whatever_its_strides_and_dtype(is_early, has_room, monkeypatch):
    gpu, launches = SimulatedGpu(is_early=is_early), []
    if not has_room:
        gpu.free = 1 << 29
    monkeypatch.setattr(gpu, "copy_all", record_calls(gpu.copy_all, launches))
    memory, there = StateMemory(gpu), on_the_gpu(gpu)
    line = memory.reserve(there)
    assert ("GPU memory 512 MiB are free, too little" in line) != has_room
    launches.clear()
    gpu.copies.clear()
    copies = memory.copy(there)
    for value in there.values():
        if value.numel():
            gpu.zero(value)
    memory.wait()
    for name, value in VARIED.items():
        assert copies[name].equal(value), name
        assert copies[name].is_contiguous()
    if has_room:
        assert gpu.copies == {"device to pinned": 1}
        assert len(launches) == 6  # float, int64, bool and bfloat16, and the two float and int32 with gaps or turned
    else:
        assert not launches


def test_a_network_may_grow():
    gpu = SimulatedGpu(is_early=True)
    memory, small, large = (
        StateMemory(gpu),
        gpu.put({"w": torch.ones(8)}),
        gpu.put({"w": torch.ones(2000), "v": torch.ones(3)}),
    )
    for there in (small, large, small):
        copies = memory.copy(there)
        memory.wait()
        assert {name: value.shape for name, value in copies.items()} == {n: v.shape for n, v in there.items()}
        assert all(bool((value == 1).all()) for value in copies.values())


def test_constant_tensors_of_the_host_and_second_names_are_not_copied():
    gpu = SimulatedGpu(is_early=True)
    memory, statistics = StateMemory(gpu), gpu.put({"s": torch.arange(3.0)})["s"]
    starting, rows = torch.arange(6.0).view(2, 3).T, torch.ones(2)
    gpu.copies.clear()
    copies = memory.copy(
        {"model|network.s": statistics, "model|starting.w": starting, "rank|s": statistics, "rank|starting.x": rows},
        constant=["model|starting."],
    )
    assert gpu.copies == {"device to pinned": 1}
    assert copies["model|network.s"] is copies["rank|s"]
    assert copies["model|starting.w"].is_contiguous()
    assert copies["model|starting.w"].equal(starting)
    rows.zero_()
    assert copies["rank|starting.x"].tolist() == [1.0, 1.0]
    assert memory.copy({"rank|starting.x": torch.zeros(0)})["rank|starting.x"].shape == (0,)


def test_erasing_zeroes_the_copies(monkeypatch):
    gpu, blocks = SimulatedGpu(), []
    there = gpu.empty
    monkeypatch.setattr(gpu, "empty", lambda *args: blocks.append(there(*args)) or blocks[-1])
    memory = StateMemory(gpu)
    copies = memory.copy({"w": gpu.put({"w": torch.ones(4)})["w"], "rows": torch.ones(2)})
    memory.erase()
    assert not any(value.any() for value in copies.values())
    assert len(blocks) == 2
    assert not blocks[-1].any(), "the snapshot"
