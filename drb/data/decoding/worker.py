"""Decodes image files, as a program of its own: `drb.data.decoding.pool` starts it.

It imports Pillow and nothing else of weight (60 ms, 15 MB), inherits none of the rank's sockets, threads or GPU memory,
and ends when its input does, so also when the rank is killed. Signals that are sent to the whole job (Ctrl-C, a
scheduler's warning) are the rank's business: it may want its last minibatches before it saves and leaves.

Input: a line of JSON, a list of paths and of sizes. A size stands for a file's content, of so many bytes, which follow
when its turn comes. Output for each of them: the line `ok` and 3 · size · size bytes (planes of red, green and blue),
or a line of JSON, the error's text.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import warnings
from typing import IO, Any

_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, without importing Pillow here
_MAX_16 = 65535
_TO_8_BITS = [(value * 255 + _MAX_16 // 2) // _MAX_16 for value in range(_MAX_16 + 1)]
_LONGEST = 8  # times the shorter side: up to here the whole picture is resized, which rounds a little less
_PLAIN = ("RGB", "L")  # 8 bits a channel, nothing to convert but the number of channels


def decode(path: str | IO[bytes], resize: int, size: int, upright: bool = True) -> bytes:
    """Shorter side to `resize`, centre crop: uint8 [3, size, size] as bytes.

    upright: turn the picture as its EXIF orientation says. Raises what Pillow raises, and as `in_8_bits`.
    """
    from PIL import Image  # with [train] only: a library user of drb needs no Pillow

    with warnings.catch_warnings(), Image.open(path) as file:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as many pixels are an error
        file.draft("RGB", (resize, resize))  # JPEG: decode at a reduced scale that still suffices
        image = in_8_bits(upright_image(file) if upright else file).convert("RGB")
    return b"".join(band.tobytes() for band in _centre(image, resize, size).split())


def upright_image(image: Any) -> Any:
    """A Pillow image turned as its EXIF orientation says; itself if it says nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, TypeError, KeyError, SyntaxError, OverflowError):
        return image  # a tag that cannot be read says nothing


def in_8_bits(image: Any) -> Any:
    """A Pillow image of any mode as one of mode L or RGB, 8 bits a channel.

    Greys of 16 bits are scaled, 0 … 65535 to 0 … 255, also where a file keeps them as 32-bit integers. An alpha channel
    is dropped, as torchvision does: what is transparent keeps its stored colour.

    Raises:
        ValueError: a mode whose range of values is not known, such as floating point.
    """
    mode = image.mode
    if mode in _PLAIN:
        return image
    if mode.startswith("I"):
        return _from_integers(image)
    if mode == "F":
        raise ValueError(
            "it has floating-point pixels, whose range is not known; save it with 8 or 16 bits per channel"
        )
    if mode in ("1", "LA", "La"):
        return image.convert("LA" if mode == "La" else "L").convert("L")
    return image.convert("RGBA").convert("RGB") if mode in ("P", "PA", "RGBa") else image.convert("RGB")


def _from_integers(image: Any) -> Any:
    """Mode I;16 and its byte orders, and I, which holds the same or 32 bits."""
    wide = image if image.mode == "I" else image.convert("I")
    if image.mode == "I":
        smallest, largest = wide.getextrema()
        if smallest < 0 or largest > _MAX_16 or 0 < largest <= 255:
            raise ValueError(
                f"it has 32-bit integer pixels from {smallest} to {largest}, whose range is not known; save it with 8 "
                "or 16 bits per channel"
            )
    return wide.point(_TO_8_BITS, "L")


def _centre(image: Any, resize: int, size: int) -> Any:
    """The centre size x size of the image with its shorter side resized to `resize`."""
    scale = resize / min(image.size)
    width, height = (max(resize, round(length * scale)) for length in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if max(width, height) <= _LONGEST * resize:
        whole = image.resize((width, height), resample=_BILINEAR)
        return whole.crop((left, top, left + size, top + size))
    # of a picture of 24,000 x 1 pixels only what is in the crop, not 24,000 · resize rows of resize pixels
    across, down = image.size[0] / width, image.size[1] / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), resample=_BILINEAR, box=box)


def main(resize: int, size: int, upright: bool) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    output, requests = sys.stdout.buffer, sys.stdin.buffer
    while line := requests.readline():
        for item in json.loads(line):
            file = item if isinstance(item, str) else io.BytesIO(requests.read(item))
            try:
                pixels = decode(file, resize, size, upright)
            except Exception as error:  # decoders raise what they like; whatever it is, the file must be named
                output.write(json.dumps(str(error) or type(error).__name__).encode() + b"\n")
            else:
                output.write(b"ok\n")
                output.write(pixels)
            output.flush()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "upright")
    except BrokenPipeError:  # the rank has gone
        sys.stderr.close()
