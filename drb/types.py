"""The values that flow through drb.

Letters of shapes, used as suffixes inside dense code (`slots_B`, `counts_WS`):
B rows of a minibatch (b), R exemplars of a round (r), N exemplars in the union,
M capacity of one rank, W ranks, S strata, K words (int64) of a packed record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]
Float64Array: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

OwnerOf: TypeAlias = Callable[[Int64Array], Int64Array]
"""Sample ids int64 [n] → the rank that each belongs to, int64 [n] in [0, W)."""

Allocate: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Returns new memory of a shape and dtype, whose values are not set."""

Minibatch: TypeAlias = dict[str, Tensor]
"""Named fields of B samples, each [B, *field_shape]: `image` uint8 [B, C, H, W], `label` int64 [B],
`sample_id` int64 [B] (unique in the whole stream) and whatever else the dataset gives. After
`Rehearsal.extend` also `rehearsed` bool [B + R], False for the first B rows."""


@dataclass(frozen=True)
class Handle:
    """Where exemplars lie, so that what is learnt about them can be sent back to their owner.

    rank, slot, generation: int64 [R]. A handle is stale once its slot holds another generation.
    """

    rank: Int64Array
    slot: Int64Array
    generation: Int64Array


@dataclass(frozen=True)
class Exemplars:
    """R samples drawn from the union of all ranks' rehearsal buffers.

    The memory of `fields`, `sample_id`, `stratum` and `handle` is written again during the next `step` or `extend`:
    clone what you keep.

    fields:    the record's fields, each [R, *field_shape], in the stored dtype
    sample_id: int64 [R]
    stratum:   int64 [R], the value of the stratum field at admission (-1 without one)
    weight:    float32 [R], inverse inclusion probability of this draw
    age:       int64 [R], steps from its arrival to the draw
    handle:    where each one lies
    draws:     how many independent draws these are, of R / draws exemplars each, one after the other
    known:     for each optional or growing late field, how many of its columns each exemplar has: int64 [R], 0 where
               it lacks the field
    """

    fields: Minibatch
    sample_id: Tensor
    stratum: Tensor
    weight: Tensor
    age: Tensor
    handle: Handle
    draws: int = 1
    known: Minibatch = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample_id)


ROW_ALIGNMENT_BYTES = 32  # where blocks of rows start, and what large rows are a multiple of
