"""Codecs whose streams have no fixed length, in slots of fixed size: what deflate, png and jpeg have in common.

Rows of a buffer have one length, so a codec of this kind states the most bytes that a sample may take, `max_bytes`. A
sample is stored as well as fits: it is compressed at the best quality first and, while the stream is too long, at the
next lower one. What fits at none of them is stored with one bit per value, for which `max_bytes` always has room. So no
sample is refused, left out or cut off, and `quality_shares` tells how many are stored how well.

Compression works on one sample at a time, on the CPU. A stream begins with any byte but 0, and zeros follow it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from drb.buffer.codecs.base import Codec, Slot
from drb.options import required
from drb.types import UInt8Array


class Compressed(Codec):
    """The base class of codecs that compress each sample of uint8 values into at most `max_bytes`.

    max_bytes: of a stored sample.
    """

    on_host: ClassVar[bool] = True
    max_bytes: int = required(at_least=1)

    @abstractmethod
    def streams(self, sample: UInt8Array) -> Iterator[bytes]:
        """Return the streams of a sample [*shape], the best quality first."""

    @abstractmethod
    def restore(self, stored: UInt8Array, shape: tuple[int, ...]) -> UInt8Array:
        """Return the sample [*shape] whose stream, followed by zeros, is stored."""

    def slot(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Slot:
        if dtype != torch.uint8:
            raise ValueError(f"the codec {self.name} stores uint8 values, got {str(dtype).removeprefix('torch.')}")
        least = 1 + -(-math.prod(shape) // 8)
        if self.max_bytes < least:
            raise ValueError(
                f"the codec {self.name} needs max_bytes of at least {least} for samples of shape {list(shape)}, one "
                f"bit per value, got {self.max_bytes}"
            )
        return torch.uint8, (self.max_bytes,)

    def encode(self, values: Tensor) -> Tensor:
        stored = np.zeros((len(values), self.max_bytes), np.uint8)
        for row, sample in zip(stored, values.numpy(), strict=True):
            stream = next(filter(self._fits, self.streams(sample)), None)
            content = _as_bits(sample) if stream is None else np.frombuffer(stream, np.uint8)
            row[: len(content)] = content
        return torch.from_numpy(stored)

    def decode(self, stored: Tensor, out: Tensor) -> None:
        shape = tuple(out.shape[1:])
        for row, sample in zip(stored.numpy(), out.numpy(), strict=True):
            sample[...] = self.restore(row, shape) if row[0] else _from_bits(row, shape)

    def _fits(self, stream: bytes) -> bool:
        return len(stream) <= self.max_bytes


def quality_shares(codec: Compressed, values: Tensor) -> list[float]:
    """Return the shares of samples [n, *shape] that are stored at the best quality, the next, …, with one bit.

    Use it to choose `max_bytes`: [0.9, 0.1] says that one sample in ten is stored at the second quality.
    """
    found = [[len(stream) <= codec.max_bytes for stream in codec.streams(sample)] for sample in values.numpy()]
    qualities = [fits.index(True) if True in fits else len(fits) for fits in found]
    return [qualities.count(quality) / len(qualities) for quality in range(max(qualities) + 1)]


def _as_bits(sample: UInt8Array) -> UInt8Array:
    """One bit per value, behind a byte 0."""
    return np.concatenate((np.zeros(1, np.uint8), np.packbits(sample.reshape(-1) > _HALF)))


def _from_bits(stored: UInt8Array, shape: tuple[int, ...]) -> UInt8Array:
    bits = np.unpackbits(stored[1:], count=math.prod(shape))
    return (bits * np.uint8(255)).reshape(shape)


_HALF = 127
