"""Arrays of integers as bytes: offsets or differences, no wider than they have to be, by planes of bytes, deflated.

An array takes a header of 14 bytes and, unless nothing is left of its integers, their planes: the lowest byte of each,
then the next one of each. High planes have few values and take next to nothing.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from drb.types import Int64Array, UInt64Array

_HEADER = struct.Struct("<BBIq")  # kind, width, integers, the least or the first of them
_LENGTH = struct.Struct("<I")
_OFFSETS, _DIFFERENCES = 0, 1
_LEVEL = 1  # of zlib; higher ones take longer and save little


def pack(values: Int64Array, *, differences: bool = False) -> bytes:
    """Return int64 [n] as bytes.

    differences: of neighbours; keep these, because they are smaller than the integers are apart.
    """
    if not len(values):
        return _HEADER.pack(_OFFSETS, 0, 0, 0)
    if differences:
        first, steps = int(values[0]), np.diff(values, prepend=values[:1])
        kept: UInt64Array = (steps << 1 ^ steps >> 63).view(np.uint64)  # small ones of either sign are small
    else:
        first = int(values.min())
        kept = (values - first).view(np.uint64)
    width = (int(kept.max()).bit_length() + 7) // 8
    header = _HEADER.pack(_DIFFERENCES if differences else _OFFSETS, width, len(values), first)
    if not width:
        return header
    planes = np.ascontiguousarray(kept.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T)
    body = zlib.compress(planes.data, _LEVEL)
    return header + _LENGTH.pack(len(body)) + body


def unpack(data: bytes, at: int = 0) -> tuple[Int64Array, int]:
    """Return the array that begins at a byte, int64 [n], and where the next one begins.

    Raises:
        ValueError: there is none.
    """
    try:
        kind, width, count, first = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if not width:
            return np.full(count, first, np.int64), at
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        planes = np.frombuffer(zlib.decompress(data[at : at + length]), np.uint8).reshape(width, count)
    except (struct.error, zlib.error, ValueError) as error:
        raise ValueError(f"an array cannot be read: {error}") from error
    wide: NDArray[np.uint8] = np.zeros((count, 8), np.uint8)
    wide[:, :width] = planes.T
    kept: UInt64Array = wide.view("<u8").reshape(-1).astype(np.uint64, copy=False)
    if kind == _OFFSETS:
        return kept.view(np.int64) + first, at + length
    steps = (kept >> np.uint64(1)).view(np.int64) ^ -(kept & np.uint64(1)).view(np.int64)
    return np.cumsum(steps) + first, at + length
