"""Fields as columns of words: how a record's fields are copied, gathered and scattered by whole words on a device.

A kernel moves single bytes slowly, and words of 8 bytes as fast as memory allows, so a field is seen as the widest
words that fit: in a row, and in memory of its own, where it is contiguous.

A field that is one number is one-dimensional throughout, [N] and [B]: then its values are its words, with no view made.

Letters: B values of a field, N rows, K words of a row, n words of a field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drb.buffer.record import SAMPLE_ID, RecordSpec

_BY_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Lane:
    """One field: dtype of its words, the word of a row at which it begins, the number of words of a sample.

    value_dtype, shape: of the field's values.
    """

    dtype: torch.dtype
    first: int
    count: int
    value_dtype: torch.dtype
    shape: tuple[int, ...]
    size: int = field(init=False)  # values of a sample
    is_single: bool = field(init=False)  # one value of one word

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(self.shape))
        object.__setattr__(self, "is_single", not self.shape and self.count == 1)

    def of_rows(self, rows: Tensor) -> Tensor:
        """The field's words [N, n] in rows int64 [N, K], whose memory they share."""
        words = rows if self.dtype == torch.int64 else rows.view(self.dtype)
        return words[:, self.first : self.first + self.count] if not self.is_single else words[:, self.first]

    def of_values(self, values: Tensor) -> Tensor:
        """The words [B, n] of contiguous values [B, *shape], whose memory they share."""
        flat = values if self.is_single else values.view(values.shape[0], self.size)  # no -1: there may be no rows
        return flat if self.value_dtype == self.dtype else flat.view(self.dtype)

    def fits(self, values: Tensor) -> bool:
        """Whether `of_values` takes these, which are of this field."""
        return values.is_contiguous() and values.data_ptr() % self.dtype.itemsize == 0


def lanes_of(spec: RecordSpec) -> dict[str, Lane]:
    """The lane of every field that has any bytes, as it is stored: a field with a codec as the codec has it."""
    return {
        name: _lane(*field.slot, field.stored_bytes, spec.offsets[name])
        for name, field in spec.fields.items()
        if field.stored_bytes
    }


def lanes_of_values(spec: RecordSpec) -> dict[str, Lane]:
    """The lane of every field that has any bytes, as it is given; `first` has no meaning for one with a codec."""
    return {
        name: _lane(field.dtype, field.shape, field.size_bytes, spec.offsets[name])
        for name, field in spec.fields.items()
        if field.size_bytes
    }


def _lane(value_dtype: torch.dtype, shape: tuple[int, ...], size: int, offset: int) -> Lane:
    """Values of so many bytes, which begin at a byte of a row."""
    dtype = torch.int64 if size % 8 == 0 else _BY_SIZE[value_dtype.itemsize]
    return Lane(dtype, offset // dtype.itemsize, size // dtype.itemsize, value_dtype, shape)


def lanes_of_blocks(spec: RecordSpec) -> dict[str, Lane]:
    """And those of the sample ids, as `ID`, and of how many columns there are of optional and growing fields."""
    words = spec.known(torch.arange(spec.words)[None])  # each the number of its word
    known = {known_key(name): Lane(torch.int64, int(word), 1, torch.int64, ()) for name, word in words.items()}
    return {**lanes_of(spec), ID: Lane(torch.int64, SAMPLE_ID, 1, torch.int64, ()), **known}


ID = "\0id"  # how sample ids are called among a block's fields; no field of a record has such a name


def known_key(name: str) -> str:
    """How the numbers of columns of a field are called among a block's fields."""
    return f"\0known {name}"
