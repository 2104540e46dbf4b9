"""Images as JPEG, each in a slot of fixed size: at the quality that is asked for if it fits, else at a lower one.

A file has about 600 bytes of tables, so this is for images of thousands of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

from drb.buffer.codecs.pictures import Picture, as_file
from drb.options import setting
from drb.types import UInt8Array


class Jpeg(Picture):
    """Store uint8 images as JPEG, at the best quality up to `quality` that fits into max_bytes. Needs Pillow.

    quality: 1 to 95, as Pillow's.
    """

    name = "jpeg"
    quality: int = setting(75, at_least=1, at_most=95)

    def streams(self, sample: UInt8Array) -> Iterator[bytes]:
        quality = self.quality
        while quality:
            yield as_file(sample, format="jpeg", quality=quality, optimize=True)
            quality = quality * 3 // 4
