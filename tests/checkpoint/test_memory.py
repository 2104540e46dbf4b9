"""Copies of a state that are made in the order of a GPU's work, and read by the thread that writes."""

from __future__ import annotations

import pytest
import torch
from rehearsal.cuda.simulated import RaceError, SimulatedGpu

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


@WAYS
@pytest.mark.parametrize("number", [0, 1])
def test_the_writer_must_wait(is_early, number):
    with pytest.raises(RaceError):
        save_twice(SimulatedGpu(is_early=is_early, leave_out=("synchronize", number)))


def test_training_waits_for_no_copy_and_locks_no_memory_after_the_start(monkeypatch):
    gpu = SimulatedGpu()
    memory, locked = StateMemory(gpu), []
    allocate = gpu.empty_pinned
    monkeypatch.setattr(gpu, "empty_pinned", lambda *shape: locked.append(shape) or allocate(*shape))
    there = gpu.put({"w": torch.ones(4), "v": torch.zeros(2, 2)})
    memory.reserve(there)
    assert len(locked) == 2
    for _ in range(3):
        memory.copy(there)
    memory.erase()
    memory.copy(there)
    assert len(locked) == 2
    assert gpu.waited_on == {"host"}, "only by erase()"
    assert gpu.calls["synchronize"] == 1


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


def test_erasing_zeroes_the_copies():
    gpu = SimulatedGpu()
    memory = StateMemory(gpu)
    copies = memory.copy({"w": gpu.put({"w": torch.ones(4)})["w"], "rows": torch.ones(2)})
    memory.erase()
    assert not any(value.any() for value in copies.values())
