"""Memory of one GPU that several processes use, by CUDA's inter-process communication (IPC).

The memory is allocated by the driver and not by torch: a handle names a whole allocation, and torch's allocator hands
out parts of larger ones, or memory that cannot be exported (pytorch#165685, #130890).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

_CHUNK_BYTES = 2 << 20  # smaller allocations may share a chunk, which is exported as a whole
_HANDLE_BYTES = 64
_LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS


class SharedMemory(Protocol):
    """Memory of this process that others may open by its handle. rows: int64 [N, K], its contents.

    It is given back when `readers_closed` was called and no view of `rows` lives any more.
    """

    address: int
    handle: str
    rows: Tensor

    def readers_closed(self) -> None:
        """No other process has it open any more."""
        ...


class Ipc(Protocol):
    """What ranks need of a device to read one another's rows."""

    def allocate(self, num_rows: int, words: int) -> SharedMemory:
        """Memory for rows int64 [num_rows, words]. Raises RuntimeError if it cannot be had or exported."""
        ...

    def open(self, handle: str) -> int:
        """The address here of another process's memory. Raises RuntimeError if this device cannot read it."""
        ...

    def close(self, address: int) -> None:
        """Nothing here reads memory that was opened any more."""
        ...

    def tensor(self, address: int, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        """Memory at an address as an int64 tensor of this device; what lies between its elements is not touched."""
        ...


class CudaIpc:
    """IPC of the CUDA driver. Raises ValueError for a device that has none."""

    def __init__(self, device: torch.device) -> None:
        if " MIG " in torch.cuda.get_device_name(device):
            raise ValueError(f"{device} is a MIG partition, whose memory other processes cannot read")
        self._device = device

    def allocate(self, num_rows: int, words: int) -> CudaSharedMemory:
        return CudaSharedMemory(self._device, num_rows, words)

    def open(self, handle: str) -> int:
        address = ctypes.c_uint64()
        with torch.cuda.device(self._device):
            _call("cuIpcOpenMemHandle_v2", ctypes.byref(address), _Handle.of(handle), ctypes.c_uint(_LAZY_PEER_ACCESS))
        return address.value

    def close(self, address: int) -> None:
        with torch.cuda.device(self._device):
            _call("cuIpcCloseMemHandle", ctypes.c_uint64(address))

    def tensor(self, address: int, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
        return tensor_at(address, shape, strides, self._device)


class CudaSharedMemory:
    """An allocation of the driver's, in whole chunks."""

    def __init__(self, device: torch.device, num_rows: int, words: int) -> None:
        size_bytes = -(-num_rows * words * 8 // _CHUNK_BYTES) * _CHUNK_BYTES
        pointer, handle = ctypes.c_uint64(), _Handle()
        with torch.cuda.device(device):
            torch.cuda.synchronize(device)  # so that this thread has the device's context
            _call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
            try:
                _call("cuIpcGetMemHandle", ctypes.byref(handle), pointer)
            except RuntimeError:
                _call("cuMemFree_v2", pointer)
                raise
        self.address, self.handle = pointer.value, bytes(bytearray(handle)).hex()
        self._owned = _Owned(device, self.address, num_rows, words)
        self.rows = torch.as_tensor(self._owned, device=device)

    def readers_closed(self) -> None:
        self._owned.may_be_freed()


class _Owned:
    """The allocation as CUDA's array interface describes memory: what torch makes a tensor of, and keeps."""

    def __init__(self, device: torch.device, address: int, num_rows: int, words: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_rows, words),
            "typestr": "<i8",
            "data": (address, False),
            "version": 3,
        }
        self._free = [False]  # freed before others have closed it, it would be undefined what they read
        weakref.finalize(self, _free, device, address, self._free).atexit = False

    def may_be_freed(self) -> None:
        self._free[0] = True


def _free(device: torch.device, address: int, may_be_freed: list[bool]) -> None:
    if may_be_freed[0]:
        with torch.cuda.device(device):
            _driver().cuMemFree_v2(ctypes.c_uint64(address))


class _Handle(ctypes.Structure):
    """CUipcMemHandle, which is passed by value."""

    _fields_ = [("reserved", ctypes.c_char * _HANDLE_BYTES)]

    @classmethod
    def of(cls, text: str) -> _Handle:
        return cls.from_buffer_copy(bytes.fromhex(text))


def tensor_at(address: int, shape: Sequence[int], strides: Sequence[int], device: torch.device) -> Tensor:
    """Memory at an address, which lives as long as its owner says, as an int64 tensor of a device.

    It may be another GPU's memory that this device reaches, which no public function of torch takes.
    """
    size_bytes = 8 * (1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)))
    storage = torch._C._construct_storage_from_data_pointer(address, device, size_bytes)
    return torch.empty(0, dtype=torch.int64, device=device).set_(storage, 0, tuple(shape), tuple(strides))


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    """Call the driver. Raises RuntimeError saying what it answered."""
    code = getattr(_driver(), name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({code})")
