"""What copies of a state ask of a GPU: `Copier`, with `CudaCopier` for a real one. The tests have a simulated one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class Copier(Protocol):
    """Memory and copies of one GPU. Work is queued on the calling thread's current stream."""

    def owns(self, value: Tensor) -> bool:
        """Whether the tensor lies on a GPU."""
        ...

    def free_bytes(self) -> int:
        """Bytes of the GPU's memory that nobody has taken."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the GPU."""
        ...

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked host memory."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue target[...] = source."""
        ...

    def copy_all(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """Queue all of target[...] = source on the GPU; of one dtype. Few launches if the strides are equal, too."""
        ...

    def zero(self, target: Tensor) -> None:
        """Queue target[...] = 0."""
        ...

    def event(self) -> Any:
        """Something to be recorded on a stream and waited for, by the host without taking a core."""
        ...

    def current(self) -> Any:
        """The current stream."""
        ...

    def side_stream(self) -> Any:
        """A stream of its own."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Queue the work of this block on that stream."""
        ...


class CudaCopier:
    """Copies by torch.cuda, on the current device."""

    def owns(self, value: Tensor) -> bool:
        return value.is_cuda

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info()[0]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda")

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def copy_all(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        torch._foreach_copy_(list(targets), list(sources), non_blocking=True)

    def zero(self, target: Tensor) -> None:
        target.zero_()

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream()

    def side_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)
