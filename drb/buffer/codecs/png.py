"""Images as PNG, each in a slot of fixed size: exactly if it fits, else with fewer levels per channel."""

from __future__ import annotations

from collections.abc import Iterator

from drb.buffer.codecs.deflate import rounded
from drb.buffer.codecs.pictures import Picture, as_file
from drb.options import setting
from drb.types import UInt8Array


class Png(Picture):
    """Store uint8 images as PNG, with as many bits per value as fit into max_bytes. Needs Pillow.

    bits: per value, at most; 8 keeps every bit of the images that fit.
    """

    name = "png"
    bits: int = setting(8, at_least=1, at_most=8)

    def streams(self, sample: UInt8Array) -> Iterator[bytes]:
        for bits in range(self.bits, 0, -1):
            yield as_file(rounded(sample, bits), format="png", optimize=True)
