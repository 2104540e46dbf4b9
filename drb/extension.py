"""Extending a minibatch: the current samples and the exemplars in one block of memory per field.

The blocks are allocated once and used in turn, so a step allocates nothing: pages of a fresh 10 MB block cost more
than copying it. What is returned is overwritten two calls later.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.fence import ReuseFence
from drb.record import SAMPLE_ID, RecordSpec
from drb.types import Int64Array, Minibatch


class Extension:
    """Two blocks of max_rows + exemplars rows per field, used alternately."""

    def __init__(self, spec: RecordSpec, max_rows: int, blocks: Int64Array, sample_id: str | None) -> None:
        rows = max_rows + blocks.shape[1]
        self._names = [name for name, field in spec.fields.items() if not field.late]
        self._sample_id = sample_id
        self._outputs = [
            {name: _empty((rows, *spec.fields[name].shape), spec.fields[name].dtype) for name in self._names}
            for _ in range(2)
        ]
        self._exemplars = [spec.views(block) for block in blocks]
        self._headers = [torch.from_numpy(block) for block in blocks]
        if sample_id is not None:
            for output in self._outputs:
                output[sample_id] = _empty((rows,), torch.int64)
        self._fence = ReuseFence(2)
        self._rehearsed: dict[tuple[int, int], Tensor] = {}
        self._turn = 0

    def extend(self, minibatch: Minibatch, block: int, num_exemplars: int) -> Minibatch:
        """The minibatch's B rows followed by the R rows of block 0 or 1, and `rehearsed` bool [B + R]."""
        num_rows = len(next(iter(minibatch.values())))
        extended: Minibatch = {}
        if num_exemplars == 0:
            extended.update(minibatch)
        else:
            self._fence.mark(self._turn)  # the last batch's readers have been queued by now
            self._turn ^= 1
            self._fence.wait(self._turn)
            outputs, exemplars = self._outputs[self._turn], self._exemplars[block]
            end = num_rows + num_exemplars
            for name in self._names:
                output = outputs[name][:end]
                torch.cat((minibatch[name], exemplars[name][:num_exemplars]), out=output)
                extended[name] = output
            if self._sample_id is not None:
                output = outputs[self._sample_id][:end]
                ids = self._headers[block][:num_exemplars, SAMPLE_ID]
                extended[self._sample_id] = torch.cat((minibatch[self._sample_id], ids), out=output)
        extended["rehearsed"] = self._mask(num_rows, num_exemplars)
        return extended

    def _mask(self, num_rows: int, num_exemplars: int) -> Tensor:
        """Shared between steps: do not write to it."""
        shape = (num_rows, num_exemplars)
        if shape not in self._rehearsed:
            self._rehearsed[shape] = torch.arange(num_rows + num_exemplars) >= num_rows
        return self._rehearsed[shape]


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Page-locked where CUDA is present, so that copies to the GPU are asynchronous."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())
