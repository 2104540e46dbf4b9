"""Minibatches in page-locked memory, from which a GPU copies them while the host goes on.

Samples are gathered straight into that memory where a source can do so: tensors, mapped files, and views of either that
do not transform images. What other sources give is copied there once, on the thread that gathers.

Page-locked memory comes from torch's allocator, which does not hand out a block again before the copies that read it
are done. So minibatches need no buffers of their own that are used in turn, and may be kept as long as one likes.

Letters: B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from drb.data.mapped import MappedSource
from drb.data.source import Source, TensorSource
from drb.data.view import View
from drb.types import Allocate, Int64Array, Minibatch


def memory_for(device: torch.device) -> Allocate | None:
    """Return what allocates minibatches that go to a device; None for ordinary memory, as the CPU needs it."""
    return page_locked if device.type == "cuda" else None


def page_locked(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return uninitialised page-locked memory. It needs CUDA."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def gatherer(source: Source, memory: Allocate | None) -> Callable[[Int64Array], Minibatch]:
    """Return `source.gather`, or a function that gives the same minibatches in memory of this kind."""
    return source.gather if memory is None else partial(gather_into, memory, source)


def gather_into(memory: Allocate, source: Source, indices: Int64Array) -> Minibatch:
    """Return the samples at `indices`, int64 [B], as `source.gather` does, with every field in memory of this kind."""
    if isinstance(source, TensorSource):
        rows = torch.from_numpy(np.ascontiguousarray(indices))
        return {name: _select(memory, column, rows) for name, column in source.columns.items()}
    if isinstance(source, View):
        below = gather_into(memory, source.source, source.indices[indices])
        seen = source.seen(dict(below))
        return {name: value if value is below.get(name) else _moved(memory, value) for name, value in seen.items()}
    if isinstance(source, MappedSource):
        minibatch = source.gather(indices, memory)
        return {name: value if name == "image" else _moved(memory, value) for name, value in minibatch.items()}
    return {name: _moved(memory, value) for name, value in source.gather(indices).items()}


def _select(memory: Allocate, column: Tensor, rows: Tensor) -> Tensor:
    out = memory((len(rows), *column.shape[1:]), column.dtype)
    return torch.index_select(column, 0, rows, out=out)


def _moved(memory: Allocate, value: Tensor) -> Tensor:
    return memory(tuple(value.shape), value.dtype).copy_(value)
