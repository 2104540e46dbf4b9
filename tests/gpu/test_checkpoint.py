"""A checkpoint's copies of tensors on a real GPU, while training overwrites them.

python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import threading

import pytest
import torch
from checkpoint.test_memory import VARIED

from drb.checkpoint.copier import CudaCopier
from drb.checkpoint.memory import StateMemory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Full(CudaCopier):
    """A GPU without room for a snapshot."""

    def free_bytes(self) -> int:
        return 0


def on_the_gpu():
    """VARIED with its strides, and a tensor of 64 MB."""
    there = {name: value.to("cuda", copy=True) for name, value in VARIED.items()}
    there["slice"] = torch.arange(10, dtype=torch.int32, device="cuda")[::3]
    return {**there, "large": torch.ones(1 << 24, device="cuda")}


@pytest.mark.parametrize("gpu", [CudaCopier, Full], ids=["snapshot", "no room"])
def test_a_checkpoint_has_what_was_there_when_it_was_begun(gpu):
    memory, there = StateMemory(gpu()), on_the_gpu()
    expected = {name: value.cpu() for name, value in there.items()}
    memory.reserve(there)
    allocated = torch.cuda.memory_allocated()
    for _ in range(3):
        torch.cuda._sleep(100_000_000)
        copies = memory.copy(there)
        assert not torch.cuda.current_stream().query(), "the host waited for the GPU"
        for value in there.values():
            value.zero_()  # the next step of training
        seen = {}

        def write(copies=copies, seen=seen):
            memory.wait()
            seen.update({name: value.clone() for name, value in copies.items()})

        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        for name, value in expected.items():
            assert seen[name].equal(value), name
            there[name].copy_(value)
    assert torch.cuda.memory_allocated() == allocated
    memory.erase()
    assert not any(value.any() for value in copies.values())


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
def test_a_snapshot_takes_few_launches():
    memory = StateMemory()
    there = {f"w{number}": torch.ones(number % 7 + 1, 5, device="cuda") for number in range(400)}
    memory.reserve(there)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        memory.copy(there)
        torch.cuda.synchronize()
    on_device = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert 2 <= len(on_device) <= 20, [event.name for event in on_device]
