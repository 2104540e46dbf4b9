"""Copies of a state's tensors, made while training waits and written while it goes on.

Tensors on a GPU are copied to page-locked memory in the order of the current stream, so training waits only until the
copies are queued: its next change to a tensor comes after them on the stream. Whoever reads the copies waits for them
first (`StateMemory.wait`), on the thread that writes.

Page-locking 100 MB takes longer than copying them, so memory is reserved once, when a run begins (`reserve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Copier(Protocol):
    """What copies to the host ask of a GPU; the tests' simulated one has it, too."""

    def owns(self, value: Tensor) -> bool:
        """Whether the tensor lies on a GPU."""
        ...

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked host memory."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue target[...] = source on the current stream."""
        ...

    def event(self) -> Any:
        """Something to be recorded on a stream and waited for."""
        ...

    def current(self) -> Any:
        """The current stream."""
        ...


class CudaCopier:
    """Copies by torch.cuda, on the current device."""

    def owns(self, value: Tensor) -> bool:
        return value.is_cuda

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream()


class StateMemory:
    """Host memory for copies of a state's tensors, reused for the next state; page-locked for tensors on a GPU.

    All methods but `wait` run on the training thread.
    """

    def __init__(self, gpu: Copier | None = None) -> None:
        self._gpu = gpu or CudaCopier()
        self._homes: dict[str, Tensor] = {}
        self._copied: Any = None  # an event, from the first copy of a tensor on a GPU on

    def reserve(self, tensors: Mapping[str, Tensor], constant: Sequence[str] = ()) -> None:
        """Allocate the memory for copies of such tensors. Arguments as for `copy`."""
        self._homes = {name: self._home(name, tensor) for name, tensor in self._to_copy(tensors, constant).items()}

    def copy(self, tensors: Mapping[str, Tensor], constant: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return contiguous copies by name, valid until the next call; `wait` before they are read.

        A tensor that comes under several names is copied once.

        Args:
            constant: beginnings of names. Nobody changes the values of these tensors, so those that lie on the host are
                not copied.
        """
        self.reserve(tensors, constant)
        copies: dict[tuple[Any, ...], Tensor] = {}
        is_queued = False
        for name, home in self._homes.items():
            tensor = tensors[name]
            copies[_key_of(tensor)] = home
            if self._gpu.owns(tensor):
                self._gpu.copy(home, tensor)
                is_queued = True
            else:
                home.copy_(tensor)
        if is_queued:
            self._copied = self._copied or self._gpu.event()
            self._copied.record(self._gpu.current())
        return {name: copies.get(_key_of(tensor), tensor).contiguous() for name, tensor in tensors.items()}

    def wait(self) -> None:
        """Return once the copies are complete. On any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def erase(self) -> None:
        """Zero the memory, because it may contain samples that must be forgotten. Nobody may be reading it."""
        self.wait()
        for home in self._homes.values():
            home.zero_()

    def _to_copy(self, tensors: Mapping[str, Tensor], constant: Sequence[str]) -> dict[str, Tensor]:
        """Those that are copied, each once, under its first name."""
        distinct: dict[tuple[Any, ...], str] = {}
        for name, tensor in tensors.items():
            if self._gpu.owns(tensor) or not name.startswith(tuple(constant)):
                distinct.setdefault(_key_of(tensor), name)
        return {name: tensors[name] for name in distinct.values()}

    def _home(self, name: str, tensor: Tensor) -> Tensor:
        home = self._homes.get(name)
        if home is not None and home.shape == tensor.shape and home.dtype == tensor.dtype:
            return home
        if self._gpu.owns(tensor):
            return self._gpu.empty_pinned(tuple(tensor.shape), tensor.dtype)
        return torch.empty(tensor.shape, dtype=tensor.dtype)


def _key_of(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same values in the same memory."""
    if not tensor.numel():
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
