"""What `CudaIpc` asks of the CUDA driver, with a stand-in for it: in which order, of which memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc

import pytest
import torch

from drb.rehearsal.cuda import ipc
from drb.rehearsal.cuda.ipc import CudaIpc

GPU = torch.device("cuda", 0)
MEBI = 1 << 20


class Driver:
    """Of libcuda: what it was asked, and memory of the host's that it hands out. fails: the call that it refuses."""

    def __init__(self, fails=""):
        self.fails, self.asked, self.memory = fails, [], (ctypes.c_int64 * MEBI)()

    def __getattr__(self, name):
        def call(*arguments):
            answer = getattr(self, f"_{name}", lambda *_: None)(*arguments)
            if answer is not None:
                self.asked.append((name, answer))
            return 2 if name == self.fails else 0

        return call

    def _cuMemAlloc_v2(self, pointer, size):  # noqa: N802
        pointer._obj.value = ctypes.addressof(self.memory)
        return size.value

    def _cuIpcGetMemHandle(self, handle, pointer):  # noqa: N802
        ctypes.memmove(ctypes.addressof(handle._obj), b"\x00handle\x00" + bytes(56), 64)
        return pointer.value

    def _cuIpcOpenMemHandle_v2(self, pointer, handle, flags):  # noqa: N802
        pointer._obj.value = 4096
        return bytes(bytearray(handle)), flags.value

    def _cuIpcCloseMemHandle(self, pointer):  # noqa: N802
        return pointer.value

    def _cuMemFree_v2(self, pointer):  # noqa: N802
        return pointer.value

    def _cuGetErrorString(self, code, text):  # noqa: N802
        text._obj.value = b"out of memory"


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(ipc, "_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch, "as_tensor", lambda memory, device: _View(memory))
    return driver


class _View:
    """A tensor, which keeps what it is a view of."""

    def __init__(self, memory):
        self.memory = memory


def test_memory_is_exported_in_whole_chunks_and_freed_with_its_last_view_once_nobody_reads_it(driver):
    address = ctypes.addressof(driver.memory)
    shared = CudaIpc(GPU).allocate(3, 100_000)
    assert driver.asked == [("cuMemAlloc_v2", 4 * MEBI), ("cuIpcGetMemHandle", address)]
    assert shared.handle == (b"\x00handle\x00" + bytes(56)).hex()
    described = {"shape": (3, 100_000), "typestr": "<i8", "data": (address, False), "version": 3}
    assert shared.rows.memory.__cuda_array_interface__ == described
    rows = shared.rows
    shared.readers_closed()
    del shared
    gc.collect()
    assert len(driver.asked) == 2
    del rows
    gc.collect()
    assert driver.asked[2:] == [("cuMemFree_v2", address)]


def test_memory_that_others_may_read_is_not_freed(driver):
    shared = CudaIpc(GPU).allocate(3, 4)
    del shared
    gc.collect()
    assert [name for name, _ in driver.asked] == ["cuMemAlloc_v2", "cuIpcGetMemHandle"]


def test_memory_that_cannot_be_exported_is_freed_at_once(driver):
    driver.fails = "cuIpcGetMemHandle"
    with pytest.raises(RuntimeError, match=r"cuIpcGetMemHandle: out of memory \(2\)"):
        CudaIpc(GPU).allocate(3, 4)
    assert driver.asked[-1] == ("cuMemFree_v2", ctypes.addressof(driver.memory))


def test_the_memory_of_others_is_opened_and_closed(driver):
    opened, handle = CudaIpc(GPU), bytes(range(64))
    assert opened.open(handle.hex()) == 4096
    opened.close(4096)
    assert driver.asked == [("cuIpcOpenMemHandle_v2", (handle, 1)), ("cuIpcCloseMemHandle", 4096)]


def test_a_partition_is_refused(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    with pytest.raises(ValueError, match="cuda:0 is a MIG partition, whose memory other processes cannot read"):
        CudaIpc(GPU)


def test_a_tensor_over_memory_whose_rows_overlap():
    memory = torch.arange(40)
    seen = ipc.tensor_at(memory.data_ptr() + 16, (17, 3), (2, 1), torch.device("cpu"))
    assert seen.index_select(0, torch.tensor([0, 3, 16])).tolist() == [[2, 3, 4], [8, 9, 10], [34, 35, 36]]
    memory[9] = -1
    assert seen[3, 1] == -1
