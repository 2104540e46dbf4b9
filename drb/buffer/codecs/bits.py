"""Images with fewer bits per value: 4 bits hold twice as many exemplars in the same memory.

A value x of 0 … 255 is stored as q = round(x / 255 · (2^n - 1)) and comes back as round(q · 255 / (2^n - 1)).

Layout: a sample's values are divided into `planes` runs of equal length, the last one padded with zeros. Byte i of
the stored sample holds bits of the ith value of every run, so that coding works on whole runs: shifting and masking
contiguous bytes takes a small part of the time that picking out every other value would take.

Letters: A samples, P values of a sample, G values of a run, n bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from drb.buffer.codecs.base import Codec, Slot
from drb.options import setting

# round(q · 255 / (2^n - 1)) = (q · factor + offset) >> shift, in 16 bits, for every q: found by trying
_WITHOUT_DIVISION = {3: (1166, 14, 5), 5: (527, 23, 6), 6: (259, 33, 6), 7: (129, 0, 6)}


class Bits(Codec):
    """Store uint8 values with a few bits each. Not exact, except that 0 stays 0 and 255 stays 255.

    bits: per value.
    """

    name = "bits"
    encodes_anywhere = True
    bits: int = setting(4, at_least=1, at_most=7)

    def slot(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Slot:
        if dtype != torch.uint8:
            raise ValueError(f"the codec bits stores uint8 values, got {str(dtype).removeprefix('torch.')}")
        return torch.uint8, (self._bytes_per_run * self._run(math.prod(shape)),)

    def encode(self, values: Tensor) -> Tensor:
        num_rows, num_values = len(values), math.prod(values.shape[1:])
        run = self._run(num_values)
        levels = values.new_zeros((num_rows, self._planes * run))
        scaled = values.reshape(num_rows, num_values).short().mul_(self._highest).add_(127)
        levels[:, :num_values] = (scaled >> 8).add_(scaled).add_(1) >> 8  # scaled // 255, which would take longer
        stored = values.new_zeros((num_rows, self._bytes_per_run * run))
        for plane, byte, shift in self._places():
            level = levels[:, plane * run : (plane + 1) * run]
            stored[:, byte * run : (byte + 1) * run] |= level << shift if shift >= 0 else level >> -shift
        return stored

    def decode(self, stored: Tensor, out: Tensor) -> None:
        num_rows, num_values = len(out), math.prod(out.shape[1:])
        run, values = self._run(num_values), out.view(num_rows, num_values)
        for plane, byte, shift in self._places():
            level = values[:, plane * run : (plane + 1) * run]
            source = stored[:, byte * run : byte * run + level.shape[1]]
            if shift >= 0:
                torch.bitwise_right_shift(source, shift, out=level)
            else:
                level |= source << -shift
        values &= self._highest
        if 255 % self._highest == 0:
            values *= 255 // self._highest
        else:
            factor, offset, shift = _WITHOUT_DIVISION[self.bits]
            values.copy_(values.short().mul_(factor).add_(offset) >> shift)

    @property
    def _highest(self) -> int:
        return (1 << self.bits) - 1

    @property
    def _planes(self) -> int:
        """Values that share whole bytes."""
        return 8 // math.gcd(8, self.bits)

    @property
    def _bytes_per_run(self) -> int:
        return self._planes * self.bits // 8

    def _run(self, num_values: int) -> int:
        return -(-num_values // self._planes)

    def _places(self) -> Iterator[tuple[int, int, int]]:
        """Where levels lie: (plane, byte, how far its bits are shifted left there); a level may lie in two bytes."""
        for plane in range(self._planes):
            byte, shift = divmod(plane * self.bits, 8)
            yield plane, byte, shift
            if shift + self.bits > 8:
                yield plane, byte + 1, shift - 8
