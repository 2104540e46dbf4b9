"""Random numbers without state to save: every generator is keyed by what it is for.

Philox is counter-based (Salmon et al., 2011): a generator keyed by (seed, purpose) and started at
counter (rank, round) gives the same numbers whenever and wherever it is made, so a resumed run needs no
saved generator and no two ranks, rounds or purposes share a stream.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np

from drb.types import Int64Array, UInt64Array

_MASK = (1 << 64) - 1


class RoundGenerator:
    """One reusable numpy Generator, re-keyed for each (purpose, rank, round); not thread-safe."""

    def __init__(self, seed: int, purpose: str, rank: int = 0) -> None:
        self._bits = np.random.Philox(key=derive_seed(seed, purpose))
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state
        self._rank = rank

    def at(self, round_: int, index: int = 0) -> np.random.Generator:
        """The generator for this round, and in it for this draw; whatever was drawn before has no influence."""
        # counter word 0 counts blocks within a draw, word 1 is the round, word 2 the rank, word 3 the draw
        self._state["state"]["counter"][:] = (0, round_, self._rank, index)
        self._state["buffer_pos"] = 4
        self._state["has_uint32"] = 0
        self._bits.state = self._state
        return self._generator


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 64-bit seed for one purpose (and rank, task, epoch …), independent of all others."""
    value = mix64_int(seed & _MASK)
    for word in (zlib.crc32(purpose.encode()), *indices):
        value = mix64_int(value ^ mix64_int(word & _MASK))
    return value


def permutation(length: int, seed: int, purpose: str, *indices: int) -> Int64Array:
    """A seeded permutation of range(length), int64 [length]."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, purpose, *indices))).permutation(length)


def mix64_int(value: int) -> int:
    """splitmix64's finaliser (Steele et al., 2014) on one Python integer; a bijection of 64-bit words."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def mix64(values: UInt64Array) -> UInt64Array:
    """`mix64_int` on a uint64 array; returns a new array of the same shape."""
    z = values + _GAMMA
    for shift, factor in _ROUNDS:
        z ^= z >> shift
        z *= factor
    z ^= z >> _LAST_SHIFT
    return z


def _word(value: int) -> UInt64Array:
    """The word as an array without dimensions. Creating one, or a numpy scalar, costs more than the arithmetic."""
    return np.array(value, np.uint64)


_GAMMA = _word(0x9E3779B97F4A7C15)
_ROUNDS = (
    (_word(30), _word(0xBF58476D1CE4E5B9)),
    (_word(27), _word(0x94D049BB133111EB)),
)
_LAST_SHIFT = _word(31)


def sample_keys(sample_ids: Int64Array, seed: int) -> UInt64Array:
    """The admission key of each sample: uint64 [B], uniform, a function of (seed, sample id) alone.

    Two rounds of splitmix64 around the seed: a bijection of the ids, so distinct ids never tie.
    """
    keys = mix64(sample_ids.view(np.uint64))
    keys ^= _admission_word(seed)
    return mix64(keys)


def sample_ids_of(keys: UInt64Array, seed: int) -> Int64Array:
    """The sample ids that have these admission keys: the inverse of `sample_keys`."""
    mixed: UInt64Array = _unmix64(keys) ^ _admission_word(seed)
    return _unmix64(mixed).view(np.int64)


def _unmix64(values: UInt64Array) -> UInt64Array:
    """The inverse of `mix64`."""
    z = _unshifted(values, _LAST_SHIFT)
    for shift, factor in reversed(_ROUNDS):
        z *= np.uint64(pow(int(factor), -1, 1 << 64))
        z = _unshifted(z, shift)
    z -= _GAMMA
    return z


def _unshifted(values: UInt64Array, shift: UInt64Array) -> UInt64Array:
    """The inverse of `z ^= z >> shift`, for shifts of which three are more than there are bits."""
    z = values.copy()
    z ^= values >> shift
    z ^= values >> (shift + shift)
    return z


@functools.lru_cache(maxsize=16)
def _admission_word(seed: int) -> UInt64Array:
    return _word(derive_seed(seed, "admission"))
