"""All that drb asks of a GPU: streams, events, two kinds of memory, copies that the host does not wait for.

What must wait for what is decided in the other files of this package, on `Device`. `CudaDevice` is the real one;
the tests' simulated one runs copies as late as it may and finds accesses to memory that nothing puts in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from drb.buffer.field import Field
from drb.exchange import Peers


class Event(Protocol):
    """A point in a stream. Waiting for one that was never recorded is no wait."""

    def record(self, stream: Any) -> None:
        """What has been queued on the stream by now belongs to the event; it can be recorded anew."""
        ...

    def synchronize(self) -> None:
        """The host waits until all that is done."""
        ...


class Stream(Protocol):
    def wait_event(self, event: Any) -> None:
        """What is queued on this stream from now on waits for the event as it was recorded last; the host does not."""
        ...


class Device(Protocol):
    """Memory and work of one GPU. `current` is the stream on which the caller's own work is queued."""

    device: torch.device

    def enter(self) -> None:
        """Make it the calling thread's device; every thread starts on device 0, whose memory it would use."""
        ...

    def owns(self, value: Tensor) -> bool:
        """Whether the tensor lies on this device."""
        ...

    def current(self) -> Stream: ...

    def side_stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, used_on: Sequence[Stream] = ()) -> Tensor:
        """Memory on the device, for the current stream and those named."""
        ...

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked host memory: copies to and from it are asynchronous."""
        ...

    def fill(self, pinned: Tensor, value: Tensor) -> None:
        """pinned[...] = value, here and now; value anywhere but on this device."""
        ...

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Queue target[...] = source. At least one of them on the device, host memory page-locked."""
        ...

    def concatenate(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Queue out[...] = the parts [n, …] one after the other, on the current stream."""
        ...

    def decode(self, field: Field, stored: Tensor, out: Tensor) -> None:
        """Queue out[...] = the values of a field that is stored with a codec, on the current stream."""
        ...

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        """Queue target[where] = source, where int64 [n] without duplicates, on the current stream."""
        ...

    def zero(self, target: Tensor) -> None:
        """Queue target[...] = 0 on the current stream."""
        ...

    def open_rows(self, peers: Peers) -> RowBackend:
        """What rows between these ranks' devices travel by. Collective over them."""
        ...


class RowBackend(Protocol):
    """Every rank calls it equally often, in the same order."""

    def all_to_all(self, received: Tensor, sent: Tensor, received_rows: list[int], sent_rows: list[int]) -> None:
        """Queue on the current stream: sent [A, K], sent_rows[w] to each; received [R, K], received_rows[w] from each.

        Letters: A rows sent, R received, K words of a row, w a rank.
        """
        ...

    def close(self) -> None:
        """Every rank is closing now."""
        ...


class CudaDevice:
    """A GPU by torch.cuda. device: as "cuda" or "cuda:1"; without an index the current one."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)

    def enter(self) -> None:
        torch.cuda.set_device(self.device)

    def owns(self, value: Tensor) -> bool:
        return value.device == self.device

    def current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)

    def side_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def event(self) -> torch.cuda.Event:
        """blocking: a host thread that waits for it sleeps; it would otherwise take a core from the data loader."""
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

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

    def fill(self, pinned: Tensor, value: Tensor) -> None:
        pinned.copy_(value)

    def copy(self, target: Tensor, source: Tensor, stream: Any) -> None:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def concatenate(self, parts: Sequence[Tensor], out: Tensor) -> None:
        torch.cat(tuple(parts), out=out)

    def decode(self, field: Field, stored: Tensor, out: Tensor) -> None:
        field.decode(stored, out)

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None:
        target.index_copy_(0, where, source)

    def zero(self, target: Tensor) -> None:
        target.zero_()

    def open_rows(self, peers: Peers) -> RowBackend:
        """An NCCL group of its own, connected here and now: a rank that cannot is told at the start."""
        group = peers.new_group("nccl")
        dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        return NcclRows(group, self.device)


class NcclRows:
    """Rows by torch.distributed, on a group that nothing else uses."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device

    def all_to_all(self, received: Tensor, sent: Tensor, received_rows: list[int], sent_rows: list[int]) -> None:
        dist.all_to_all_single(received, sent, received_rows, sent_rows, group=self._group)

    def close(self) -> None:
        torch.cuda.synchronize(self._device)  # rows that nobody will read may be on their way
        dist.destroy_process_group(self._group)


def find_device(wanted: str | int | torch.device | Device | None, values: Mapping[str, Tensor]) -> Device | None:
    """Where a rehearsal returns what it is given: there, or where the values lie if None is wanted. None: the host.

    Raises:
        ValueError: a device that is not there, or is neither CUDA nor the CPU.
    """
    if wanted is None:
        wanted = next((value.device for value in values.values() if value.is_cuda), torch.device("cpu"))
    elif not isinstance(wanted, str | int | torch.device):
        return wanted
    try:
        device = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
    except RuntimeError:
        raise ValueError(f'device must be None, "cpu", "cuda" or "cuda:N", got {wanted!r}') from None
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        raise ValueError(f"device must be a CUDA device or the CPU, got {device}")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= available:
        raise ValueError(f"device={device} is not there: {available} CUDA devices are visible; leave device= out")
    return CudaDevice(device)


def bring(device: Device, value: Tensor) -> Tensor:
    """A host tensor's values on the device, for the current stream; the host does not wait."""
    pinned = device.empty_pinned(tuple(value.shape), value.dtype)
    device.fill(pinned, value)
    moved = device.empty(tuple(value.shape), value.dtype)
    device.copy(moved, pinned, device.current())
    return moved
