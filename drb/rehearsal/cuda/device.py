"""All that drb asks of a GPU: streams, events, kinds of memory, copies and gathers that the host does not wait for.

What must wait for what is decided in the other files of this package, on `Device`. `CudaDevice` is the real one; the
tests' simulated one runs work as late as it may, and finds accesses to memory that nothing puts in order.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from drb.buffer.field import Field
from drb.exchange import Peers
from drb.types import Int64Array

if TYPE_CHECKING:  # loaded once it is needed
    from drb.rehearsal.cuda.ipc import Ipc
    from drb.rehearsal.cuda.nccl import RowBackend


class Event(Protocol):
    """A point in a stream. Waiting for one that was never recorded is no wait."""

    def record(self, stream: Any) -> None:
        """What has been queued on the stream by now belongs to the event; it can be recorded anew."""
        ...

    def synchronize(self) -> None:
        """The host waits until all that is done."""
        ...


class Stream(Protocol):
    """A queue of work, which is done in order."""

    def wait_event(self, event: Any) -> None:
        """What is queued on this stream from now on waits for the event as it was recorded last; the host does not."""
        ...


class Device(Protocol):
    """Memory and work of one GPU. Operations are queued on the calling thread's current stream, see `on`."""

    device: torch.device

    @property
    def identity(self) -> str:
        """The name that this GPU has in all processes of its node."""
        ...

    def owns(self, value: Tensor) -> bool:
        """Whether the tensor lies on this device."""
        ...

    def free_bytes(self) -> int:
        """Bytes of its memory that nobody has taken."""
        ...

    def current(self) -> Stream:
        """The calling thread's current stream: the caller's own, outside `on`."""
        ...

    def side_stream(self) -> Stream:
        """A stream whose work goes first when the device has room for one thing only."""
        ...

    def event(self) -> Event:
        """An event for which a host thread waits without taking a core."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Queue the operations of this block on this device's stream, whatever the thread used before."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, used_on: Sequence[Stream] = ()) -> Tensor:
        """Memory on the device, for the current stream and those named."""
        ...

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked host memory: copies to and from it are asynchronous."""
        ...

    def map_host(self, rows: Int64Array) -> Tensor | None:
        """Page-lock host memory, wherever it is from, and return it as a tensor that this device reads and writes.

        None if the system does not let it. The memory stays locked as long as the tensor or a view of it lives.
        """
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue target[...] = source. At least one of them on the device.

        Host memory that is page-locked must not be written to until the copy is done; other memory is read at once.
        """
        ...

    def copy_all(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """Queue all of target[...] = source at once; of the same shapes and one dtype, on the device."""
        ...

    def gather(self, source: Tensor, index: Tensor, out: Tensor) -> None:
        """Queue out[...] = source[index]; source [N, n], which may be mapped, index int64 [R], out [R, n]."""
        ...

    def encode(self, field: Field, values: Tensor, out: Tensor) -> None:
        """Queue out[...] = the values of a field as its codec, which encodes anywhere, stores them."""
        ...

    def decode(self, field: Field, stored: Tensor, out: Tensor) -> None:
        """Queue out[...] = the values of a field that is stored with a codec, on the current stream."""
        ...

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        """Queue target[where] = source; target [N, n], which may be mapped, where int64 [R] without duplicates."""
        ...

    def zero(self, target: Tensor) -> None:
        """Queue target[...] = 0."""
        ...

    def open_rows(self, peers: Peers) -> RowBackend:
        """What rows between these ranks' devices travel by. Collective over them."""
        ...

    def ipc(self) -> Ipc:
        """Memory that other processes may read. Raises ValueError if this device has none."""
        ...


class CudaDevice:
    """A GPU by torch.cuda. device: as "cuda" or "cuda:1"; without an index the current one."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self._streams: dict[int, torch.cuda.Stream] = {}  # by number

    @property
    def identity(self) -> str:
        """Its UUID: the index depends on CUDA_VISIBLE_DEVICES."""
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def owns(self, value: Tensor) -> bool:
        return value.device == self.device

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0]

    def current(self) -> torch.cuda.Stream:
        """The current stream; `torch.cuda.current_stream` makes a new object each time, in 25 µs of a training loop."""
        number, _, _ = torch._C._cuda_getCurrentStream(self.device.index)
        if number not in self._streams:
            self._streams[number] = torch.cuda.current_stream(self.device)
        return self._streams[number]

    def side_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device, priority=-1)  # type: ignore[no-untyped-call]

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        if torch.cuda.current_device() != self.device.index:  # as on a new thread
            return torch.cuda.stream(stream)
        return _On(stream, self.current())

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, used_on: Sequence[Stream] = ()) -> Tensor:
        """The allocator knows the current stream only: it hands out memory whose last use is queued there, and again as
        soon as work there may overwrite it. So the others wait first, and are recorded for the end (pytorch#188655)."""
        memory = torch.empty(shape, dtype=dtype, device=self.device)
        allocated = torch.cuda.Event()  # type: ignore[no-untyped-call]
        allocated.record(self.current())
        for stream in used_on:
            stream.wait_event(allocated)
            memory.record_stream(stream)  # type: ignore[arg-type]
        return memory

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def map_host(self, rows: Int64Array) -> Tensor | None:
        if not rows.size or not _host_pointers_serve(self.device):
            return None
        with torch.cuda.device(self.device):
            failed = int(_runtime().cudaHostRegister(rows.ctypes.data, rows.nbytes, _PORTABLE_AND_MAPPED))
            return None if failed else torch.as_tensor(_Mapped(rows), device=self.device)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def copy_all(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        torch._foreach_copy_(list(targets), list(sources), non_blocking=True)

    def gather(self, source: Tensor, index: Tensor, out: Tensor) -> None:
        torch.index_select(source, 0, index, out=out)

    def encode(self, field: Field, values: Tensor, out: Tensor) -> None:
        out.copy_(field.encode(values))

    def decode(self, field: Field, stored: Tensor, out: Tensor) -> None:
        field.decode(stored, out)

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        target.index_copy_(0, where, source)

    def zero(self, target: Tensor) -> None:
        target.zero_()

    def open_rows(self, peers: Peers) -> RowBackend:
        """An NCCL group of its own, connected here and now: a rank that cannot is told at the start."""
        from drb.rehearsal.cuda.nccl import NcclRows  # seldom needed

        return NcclRows(peers, self.device)

    def ipc(self) -> Ipc:
        from drb.rehearsal.cuda.ipc import CudaIpc  # seldom needed

        return CudaIpc(self.device)


_PORTABLE_AND_MAPPED = 1 | 2  # cudaHostRegisterPortable, cudaHostRegisterMapped
_CAN_USE_HOST_POINTER = 91  # CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM


class _On:
    """What `torch.cuda.stream` does for streams of the current device, in half the time."""

    def __init__(self, stream: torch.cuda.Stream, before: torch.cuda.Stream) -> None:
        self._stream, self._before = stream, before

    def __enter__(self) -> None:
        torch.cuda.set_stream(self._stream)

    def __exit__(self, *error: object) -> None:
        torch.cuda.set_stream(self._before)


class _Mapped:
    """Page-locked host memory as CUDA's array interface describes memory: what torch makes a tensor of, and keeps."""

    def __init__(self, rows: Int64Array) -> None:
        self.__cuda_array_interface__ = {
            "shape": rows.shape,
            "typestr": "<i8",
            "data": (rows.ctypes.data, False),
            "version": 3,
        }
        weakref.finalize(self, _unlock, rows).atexit = False


def _unlock(rows: Int64Array) -> None:
    """The rows are an argument so that their memory lives until it is unlocked."""
    _runtime().cudaHostUnregister(rows.ctypes.data)


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _host_pointers_serve(device: torch.device) -> bool:
    """Whether the device reaches locked host memory by the addresses that the host has for it."""
    value = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    failed = driver.cuDeviceGetAttribute(ctypes.byref(value), _CAN_USE_HOST_POINTER, device.index)
    return not failed and value.value == 1
