"""Copies of a state's tensors, made while training waits and written while it goes on.

Tensors on a GPU are copied within the GPU into one block, a snapshot, by a few launches in the order of the current
stream. So training waits only until these are queued, and may change the tensors at once. A stream of its own brings
the block to page-locked memory as one copy. Where the GPU has no room for the block, each tensor is copied to the host
in the order of the current stream. Whoever reads the copies waits for them first (`StateMemory.wait`), on the thread
that writes.

Page-locking 100 MB takes longer than copying them, and the first launch of a kernel loads it, so a run reserves the
memory and copies once when it begins (`reserve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from drb.checkpoint.copier import Copier, CudaCopier
from drb.machine import format_bytes

_ALIGNMENT = 256  # bytes, of a tensor's place in a block
_LEFT_FREE = 1 << 30  # bytes of the GPU that a snapshot leaves to training


class StateMemory:
    """Memory for copies of a state's tensors, reused for the next state.

    All methods but `wait` run on the training thread.
    """

    def __init__(self, gpu: Copier | None = None) -> None:
        self._gpu = gpu or CudaCopier()
        self._homes: dict[str, Tensor] = {}  # of tensors on the host
        self._block = _Block(self._gpu)

    def reserve(self, tensors: Mapping[str, Tensor], constant: Sequence[str] = ()) -> str:
        """Do once what `copy` will do, so that all memory is there; return a line that says what it takes."""
        self.copy(tensors, constant)
        here = sum(home.nbytes for home in self._homes.values()) + self._block.used
        return f"copies of the state take {format_bytes(here)} of host memory{self._block.describe()}"

    def copy(self, tensors: Mapping[str, Tensor], constant: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return contiguous copies by name, valid until the next call; `wait` before they are read.

        A tensor that comes under several names is copied once.

        Args:
            constant: beginnings of names. Nobody changes the values of these tensors, so those that lie on the host are
                not copied.
        """
        keys = {name: _key_of(tensor) for name, tensor in tensors.items()}
        copied = self._to_copy(tensors, keys, tuple(constant))
        there = {name: tensor for name, tensor in copied.items() if self._gpu.owns(tensor)}
        self._homes = {name: self._home(name, tensor) for name, tensor in copied.items() if name not in there}
        for name, home in self._homes.items():
            home.copy_(tensors[name])
        homes = self._homes | self._block.copy(there)
        by_key = {keys[name]: home for name, home in homes.items()}
        return {name: by_key[key] if key in by_key else tensors[name].contiguous() for name, key in keys.items()}

    def wait(self) -> None:
        """Return once the copies are complete. On any thread."""
        self._block.wait()

    def erase(self) -> None:
        """Zero the memory, because it may contain samples that must be forgotten. Nobody may be reading it."""
        for home in self._homes.values():
            home.zero_()
        self._block.erase()

    def _to_copy(
        self, tensors: Mapping[str, Tensor], keys: Mapping[str, Any], constant: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """Those that are copied, each once, under its first name."""
        distinct: dict[Any, str] = {}
        for name, tensor in tensors.items():
            if not name.startswith(constant) or self._gpu.owns(tensor):
                distinct.setdefault(keys[name], name)
        return {name: tensors[name] for name in distinct.values()}

    def _home(self, name: str, tensor: Tensor) -> Tensor:
        home = self._homes.get(name)
        if home is not None and home.shape == tensor.shape and home.dtype == tensor.dtype:
            return home
        return torch.empty(tensor.shape, dtype=tensor.dtype)


class _Block:
    """Page-locked memory for copies of tensors on a GPU, and as much of the GPU's own, if it has that."""

    def __init__(self, gpu: Copier) -> None:
        self._gpu = gpu
        self._layout: dict[str, tuple[Any, ...]] = {}
        self._homes: dict[str, Tensor] = {}
        self._places: dict[str, Tensor] = {}  # of the same tensors in the snapshot
        self._here: Tensor | None = None  # uint8 [bytes], page-locked
        self._there: Tensor | None = None  # uint8 [bytes] on the GPU
        self._free = 0  # bytes of the GPU, when it was asked for room
        self.used = 0  # bytes of the block

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Queue copies of tensors on the GPU; return where they will be."""
        if not tensors:
            return {}
        if self._here is None:
            self._stream, self._taken, self._copied = self._gpu.side_stream(), self._gpu.event(), self._gpu.event()
        layout = {name: (tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in tensors.items()}
        if layout != self._layout:
            self._lay_out(tensors)
            self._layout = layout
        current = self._gpu.current()
        current.wait_event(self._copied)  # the last snapshot is read until then
        if self._there is None:
            for name, tensor in tensors.items():
                self._gpu.copy(self._homes[name], tensor)
            self._copied.record(current)
        else:
            self._take_snapshot(tensors)
            self._taken.record(current)
            self._bring_home()
        return self._homes

    def describe(self) -> str:
        if self._here is None:
            return ""
        size = format_bytes(self.used)
        if self._there is not None:
            return f", {size} of it page-locked, and {size} of GPU memory"
        return (
            f", {size} of it page-locked; of GPU memory {format_bytes(self._free)} are free, too little for a snapshot "
            f"that leaves {format_bytes(_LEFT_FREE)}, so the GPU copies each tensor to the host before it trains on"
        )

    def wait(self) -> None:
        if self._here is not None:
            self._copied.synchronize()

    def erase(self) -> None:
        self.wait()
        if self._here is None:
            return
        self._here.zero_()
        if self._there is not None:
            self._gpu.zero(self._there)
            self._copied.record(self._gpu.current())
            self._copied.synchronize()

    def _take_snapshot(self, tensors: Mapping[str, Tensor]) -> None:
        """Queue copies within the GPU: together, what has one dtype and the strides of its place."""
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in tensors.items():
            if tensor.numel():
                targets, sources = groups.setdefault((tensor.dtype, tensor.is_contiguous()), ([], []))
                targets.append(self._places[name])
                sources.append(tensor)
        for targets, sources in groups.values():
            self._gpu.copy_all(targets, sources)

    def _bring_home(self) -> None:
        assert self._here is not None
        assert self._there is not None
        self._stream.wait_event(self._taken)
        with self._gpu.on(self._stream):
            self._gpu.copy(self._here[: self.used], self._there[: self.used])
        self._copied.record(self._stream)

    def _lay_out(self, tensors: Mapping[str, Tensor]) -> None:
        self.wait()
        starts, self.used = {}, 0
        for name, tensor in tensors.items():
            starts[name] = self.used
            self.used += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        if self._here is None or len(self._here) < self.used:
            self._allocate(self.used + self.used // 16)  # networks grow
        assert self._here is not None
        self._homes = {
            name: _vector(self._here, starts[name], tensor).view(tensor.shape) for name, tensor in tensors.items()
        }
        if self._there is not None:
            self._places = {name: _place(self._there, starts[name], tensor) for name, tensor in tensors.items()}

    def _allocate(self, size: int) -> None:
        self._here = self._there = None
        self._here = self._gpu.empty_pinned((size,), torch.uint8)
        self._free = self._gpu.free_bytes()
        if self._free >= size + _LEFT_FREE:
            self._there = self._gpu.empty((size,), torch.uint8)


def _vector(block: Tensor, start: int, tensor: Tensor) -> Tensor:
    """The part of a block that a tensor takes, as a vector of its dtype."""
    return block[start : start + tensor.nbytes].view(tensor.dtype)


def _place(block: Tensor, start: int, tensor: Tensor) -> Tensor:
    """A contiguous place for the tensor, with its strides if it is contiguous: where a size is 1 they are arbitrary."""
    vector = _vector(block, start, tensor)
    if not tensor.is_contiguous():
        return vector.view(tensor.shape)
    return vector.as_strided(tensor.shape, tensor.stride(), vector.storage_offset())


def _key_of(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same values in the same memory."""
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
