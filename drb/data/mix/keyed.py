"""Keyed permutations with random access: where index i goes, without the indices before it, and back.

Up to `LARGEST_TABLE` the permutation is the order of the hashes of its indices. Above it is a Feistel network on the
smallest power of two that holds all indices, repeated until the result is one of them (cycle walking; Black & Rogaway,
CT-RSA 2002): uniform enough for large ranges only, and inverted by running its rounds backwards. Neither depends on a
library's generator, whose stream may change with its version.
"""

from __future__ import annotations

import numpy as np

from drb.seeding import mix64
from drb.types import Int64Array, UInt64Array

LARGEST_TABLE = 1 << 16
_ROUNDS = 6  # even, so that halves of different widths are back in their places
_FACTORS = (np.array(0x9E3779B97F4A7C15, np.uint64), np.array(0xBF58476D1CE4E5B9, np.uint64))
_SHIFTS = (np.array(29, np.uint64), np.array(32, np.uint64))


def table(size: int, keys: UInt64Array) -> Int64Array:
    """A permutation of range(size) for each key: int64 [*keys.shape, size]."""
    hashes = mix64(keys[..., None] ^ np.arange(size, dtype=np.uint64))
    return np.argsort(hashes, axis=-1, kind="stable")


def walk(
    indices: Int64Array, sizes: int | Int64Array, keys: UInt64Array, *, largest: int, back: bool = False
) -> Int64Array:
    """Where each index goes in the Feistel permutation of its size and key, or, back, which index goes there.

    Args:
        indices: int64 [n], each in [0, size).
        sizes: of the ranges, one for all or int64 [n].
        keys: uint64, one for all or [n].
        largest: the size that the network is made for, at least every other size.
    Returns:
        int64 [n].
    """
    bits = max(2, (largest - 1).bit_length())
    limit = np.broadcast_to(np.asarray(sizes, np.uint64), indices.shape)
    keys = np.broadcast_to(keys, indices.shape)
    result = _network(indices.astype(np.uint64), bits, keys, back)
    outside = np.flatnonzero(result >= limit)
    while len(outside):
        result[outside] = _network(result[outside], bits, keys[outside], back)
        outside = outside[result[outside] >= limit[outside]]
    return result.astype(np.int64)


def _network(values: UInt64Array, bits: int, keys: UInt64Array, back: bool) -> UInt64Array:
    """One pass over the network of `bits` bits; its inverse if back."""
    widths = (bits // 2, bits - bits // 2)  # of the left and the right half before an even round
    left, right = values >> np.uint64(widths[1]), values & np.uint64((1 << widths[1]) - 1)
    for step in range(_ROUNDS):
        index = _ROUNDS - 1 - step if back else step
        mask = np.uint64((1 << widths[index % 2]) - 1)
        if back:
            left, right = right ^ (_hash(left, keys, index) & mask), left
        else:
            left, right = right, left ^ (_hash(right, keys, index) & mask)
    joined: UInt64Array = (left << np.uint64(widths[1])) | right
    return joined


def _hash(half: UInt64Array, keys: UInt64Array, index: int) -> UInt64Array:
    rotation = np.uint64(11 * index + 1)
    value: UInt64Array = (half + ((keys >> rotation) | (keys << (np.uint64(64) - rotation)))) * _FACTORS[0]
    value ^= value >> _SHIFTS[0]
    value *= _FACTORS[1]
    value ^= value >> _SHIFTS[1]
    return value
