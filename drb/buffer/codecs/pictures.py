"""What the codecs of image formats have in common: Pillow, and images [C, H, W] of one or three channels."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np
import torch

from drb.buffer.codecs.base import Slot
from drb.buffer.codecs.compressed import Compressed
from drb.types import UInt8Array


class Picture(Compressed):
    """The base class of codecs that store images in a file format of Pillow's."""

    def slot(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Slot:
        if importlib.util.find_spec("PIL") is None:
            raise ValueError(f"the codec {self.name} needs Pillow: pip install pillow")
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"the codec {self.name} stores images [1 or 3, height, width], got {list(shape)}")
        return super().slot(dtype, shape)

    def restore(self, stored: UInt8Array, shape: tuple[int, ...]) -> UInt8Array:
        from PIL import Image

        with Image.open(io.BytesIO(stored.tobytes())) as image:
            pixels = np.asarray(image)
        return pixels.reshape(shape) if shape[0] == 1 else pixels.transpose(2, 0, 1)


def as_file(sample: UInt8Array, **options: Any) -> bytes:
    """Return an image [C, H, W] as the content of a file; options: of `PIL.Image.Image.save`."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(sample[0] if len(sample) == 1 else sample.transpose(1, 2, 0)).save(content, **options)
    return content.getvalue()
