"""What `CudaDevice` asks of torch.cuda, with stand-ins for it: which calls, on which stream, in which order."""

from __future__ import annotations

import contextlib
import ctypes
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from drb.rehearsal.cuda import CudaDevice, find_device

GPU = torch.device("cuda", 1)


@pytest.fixture
def log(monkeypatch):
    """Every call in order; two devices are there, the second is the current one."""
    calls = []

    @contextlib.contextmanager
    def stream(chosen):
        calls.append(("enter", chosen))
        yield
        calls.append(("leave", chosen))

    def event(**settings):
        made = MagicMock(name="event", settings=settings)
        made.record.side_effect = lambda on: calls.append(("record", on))
        return made

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentStream", lambda index: (7, index, 1))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "Event", event)
    return calls


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1", GPU])
def test_a_device_by_name(log, wanted):
    device = find_device(wanted, {})
    assert isinstance(device, CudaDevice)
    assert device.device == GPU
    assert device.current() == "current of cuda:1"


def test_the_host_by_default(log):
    assert find_device(None, {"x": torch.zeros(2)}) is None
    assert find_device("cpu", {"x": torch.zeros(2)}) is None


def test_the_device_of_the_values(log):
    value = MagicMock(is_cuda=True, device=GPU)
    device = find_device(None, {"id": torch.zeros(2), "x": value})
    assert device is not None
    assert device.owns(value)
    assert not device.owns(torch.zeros(2))
    assert not device.owns(MagicMock(device=torch.device("cuda", 0)))


@pytest.mark.parametrize("is_current_device", [True, False])
def test_work_is_queued_on_the_stream_it_is_for(log, monkeypatch, is_current_device):
    """And the thread goes on with the stream and the device that it had."""
    monkeypatch.setattr(torch.cuda, "set_stream", lambda chosen: log.append(("set", chosen)))
    device = CudaDevice(GPU)
    if not is_current_device:
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with device.on("side"):
        log.append(("work",))
    before = ("set", "current of cuda:1")
    if is_current_device:
        assert log == [("set", "side"), ("work",), before]
    else:
        assert log == [("enter", "side"), ("work",), ("leave", "side")]


def test_copies_do_not_wait(log):
    target, source = MagicMock(), MagicMock()
    CudaDevice(GPU).copy(target, source)
    target.copy_.assert_called_once_with(source, non_blocking=True)


def test_memory_for_other_streams_waits_and_is_kept_for_them(log, monkeypatch):
    memory, side = MagicMock(), MagicMock()
    side.wait_event.side_effect = lambda _: log.append(("wait", side))
    monkeypatch.setattr(torch, "empty", lambda *_, **settings: memory if settings["device"] == GPU else None)
    assert CudaDevice(GPU).empty((2, 3), torch.int64, used_on=[side]) is memory
    assert log == [("record", "current of cuda:1"), ("wait", side)]
    memory.record_stream.assert_called_once_with(side)


class Driver:
    """Of libcuda and of the runtime: what they answer, and what they were asked to lock."""

    def __init__(self, serves, refuses=False):
        self.serves, self.refuses, self.locked = serves, refuses, []

    def cuDeviceGetAttribute(self, out, attribute, device):  # noqa: N802
        out._obj.value = int(self.serves and attribute == 91 and device == 1)
        return 0

    def cudaHostRegister(self, pointer, size, flags):  # noqa: N802
        self.locked.append((pointer, size, flags))
        return int(self.refuses)

    def cudaHostUnregister(self, pointer):  # noqa: N802
        self.locked.append(("unlocked", pointer))


@pytest.mark.parametrize(("serves", "refuses"), [(True, False), (False, False), (True, True)])
def test_host_memory_is_locked_and_mapped_where_that_can_be_done(log, monkeypatch, serves, refuses):
    driver, rows = Driver(serves, refuses), np.arange(6).reshape(3, 2)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch, "as_tensor", lambda memory, device: (memory.__cuda_array_interface__, device))
    mapped = CudaDevice(GPU).map_host(rows)
    assert driver.locked[:1] == ([(rows.ctypes.data, 48, 3)] if serves else [])
    if serves and not refuses:
        described = {"shape": (3, 2), "typestr": "<i8", "data": (rows.ctypes.data, False), "version": 3}
        assert mapped == (described, GPU)
        assert driver.locked[1:] == [("unlocked", rows.ctypes.data)]  # with the tensor, which is gone
    else:
        assert mapped is None


def test_waiting_for_an_event_does_not_spin(log):
    assert CudaDevice(GPU).event().settings == {"blocking": True}


def test_pinned_memory_is_asked_for(log, monkeypatch):
    asked = MagicMock()
    monkeypatch.setattr(torch, "empty", asked)
    CudaDevice(GPU).empty_pinned((2,), torch.uint8)
    asked.assert_called_once_with((2,), dtype=torch.uint8, pin_memory=True)


def test_operations_on_values(log):
    """By tensors of the host: what they compute."""
    device, out = CudaDevice(GPU), torch.zeros(4, 2)
    device.copy_all([out[:1], out[1:]], [torch.ones(1, 2), torch.full((3, 2), 2.0)])
    assert out[:, 0].tolist() == [1, 2, 2, 2]
    gathered = torch.zeros(2, 2)
    device.gather(out, torch.tensor([3, 0]), gathered)
    assert gathered[:, 0].tolist() == [2, 1]
    device.scatter(out, torch.arange(4.0)[:, None].expand(4, 2).contiguous(), torch.tensor([3, 1, 0, 2]))
    assert out[:, 0].tolist() == [2, 1, 3, 0]
    device.zero(out)
    assert not out.any()


def test_rows_travel_on_a_group_of_their_own(log, monkeypatch):
    peers, zeros, calls = MagicMock(), torch.zeros, []
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    for name in ("all_reduce", "all_to_all_single", "destroy_process_group"):
        call = lambda *values, _name=name, **settings: calls.append((_name, values, settings))  # noqa: E731
        monkeypatch.setattr(torch.distributed, name, call)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(("synchronize", (device,), {})))
    rows = CudaDevice(GPU).open_rows(peers)
    peers.new_group.assert_called_once_with("nccl")
    rows.all_to_all("received", "sent", [1, 2], [3, 0])
    rows.close()
    group = peers.new_group.return_value
    assert [name for name, _, _ in calls] == [
        "all_reduce",
        "all_to_all_single",
        "synchronize",
        "destroy_process_group",
    ]
    assert calls[1] == ("all_to_all_single", ("received", "sent", [1, 2], [3, 0]), {"group": group})
    assert calls[3][1] == (group,)
