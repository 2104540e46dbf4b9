"""Greys of 16 bits that use a small part of their range: scaled to 8 bits, next to nothing of them is left.

Cameras and scanners of 12 or 14 bits write files of 16 bits. Nothing in such a file says so; the values do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_SUFFIXES = (b".png", b".tif", b".tiff", b".ppm")  # of formats that have 16 bits
_LOOKED_AT = 64  # files at most
_FULL, _SMALL = 65535, 1 << 14  # the largest value, and what no full picture of many stays below


def note_on_greys(folder: Path, names: Iterable[bytes]) -> str | None:
    """A line on files whose 16-bit values are all small; None if there is nothing to say.

    Args:
        names: paths below `folder`; up to 64 of them, evenly spaced, are looked at.
    """
    candidates = [name for name in names if name.lower().endswith(_SUFFIXES)]
    some = candidates[:: -(-len(candidates) // _LOOKED_AT) or 1]
    largest = [value for name in some if (value := _largest_of_16_bits(folder / os.fsdecode(name))) is not None]
    if not largest or not 0 < max(largest) < _SMALL:
        return None
    return (
        f"the {len(largest)} greys of 16 bits looked at in {folder} have values up to {max(largest)} of {_FULL}, and "
        f"only {round(max(largest) * 255 / _FULL)} of 255 when they are scaled to 8 bits: if their range is smaller, "
        "such as 12 bits, scale them to 16 bits or save them with 8"
    )


def _largest_of_16_bits(path: Path) -> int | None:
    """The largest value of a grey picture of 16 bits; None of any other, and of one that cannot be read."""
    from PIL import Image  # with [train] only

    try:
        with Image.open(path) as image:
            return max(map(int, image.convert("I").getextrema())) if image.mode.startswith("I") else None  # type: ignore[arg-type]
    except Exception:  # decoders raise what they like; whoever decodes the file for training names it
        return None
