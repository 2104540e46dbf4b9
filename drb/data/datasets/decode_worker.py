"""Decodes image files, as a program of its own: `drb.data.datasets.decode_pool` starts it.

It imports Pillow and nothing else of weight (60 ms, 15 MB), inherits none of the rank's sockets, threads or GPU memory,
and ends when its input does, so also when the rank is killed. Signals that are sent to the whole job (Ctrl-C, a
scheduler's warning) are the rank's business: it may want its last minibatches before it saves and leaves.

Input: a line of JSON, [path, …]. Output for each path: the line `ok` and 3 · size · size bytes (planes of red, green
and blue), or a line of JSON, the error's text.
"""

from __future__ import annotations

import json
import signal
import sys

_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, without importing Pillow here


def decode(path: str, resize: int, size: int) -> bytes:
    """Shorter side to `resize`, centre crop: uint8 [3, size, size] as bytes. Raises what Pillow raises."""
    from PIL import Image  # with [train] only: a library user of drb needs no Pillow

    with Image.open(path) as file:
        file.draft("RGB", (resize, resize))  # JPEG: decode at a reduced scale that still suffices
        image = file.convert("RGB")
    width, height = image.size
    scale = resize / min(width, height)
    width, height = max(resize, round(width * scale)), max(resize, round(height * scale))
    image = image.resize((width, height), resample=_BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return b"".join(band.tobytes() for band in image.crop((left, top, left + size, top + size)).split())


def main(resize: int, size: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    output = sys.stdout.buffer
    for line in sys.stdin.buffer:
        for path in json.loads(line):
            try:
                pixels = decode(path, resize, size)
            except Exception as error:  # decoders raise what they like; whatever it is, the file must be named
                output.write(json.dumps(str(error) or type(error).__name__).encode() + b"\n")
            else:
                output.write(b"ok\n")
                output.write(pixels)
            output.flush()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except BrokenPipeError:  # the rank has gone
        sys.stderr.close()
