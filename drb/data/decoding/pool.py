"""Processes that decode image files, so that decoding neither takes the training's interpreter nor stops with it.

Why not torch's DataLoader: its workers are forks of the rank, or import torch for seconds each. A fork has the
rank's sockets, so that peers do not see a killed rank's connections close, and must not be made beside MPI or CUDA;
its minibatches travel through /dev/shm, 64 MB in default containers. These processes are fresh, small and talk
through two pipes; when the rank dies, however, their input ends and so do they.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt

_PROGRAM = Path(__file__).with_name("worker.py")
_START = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"  # its folder is not importable from
_CHUNK = 8  # files per request at most: one hand-off between threads for all of them


Picture: TypeAlias = str | tuple[str, bytes]
"""An image file: its path, or its name for messages and its content."""

_POOLS: weakref.WeakSet[DecoderPool] = weakref.WeakSet()


def close_decoders() -> None:
    """End all decoding processes, for a program that leaves without tearing the interpreter down."""
    for pool in list(_POOLS):
        pool.close()


class DecoderPool:
    """Up to `workers` decoding processes, started when there is work for them. Thread-safe.

    They end with the pool, when it is closed, collected or left behind at exit.
    """

    def __init__(self, workers: int, *, resize: int, image_size: int, upright: bool = True) -> None:
        self.workers = workers
        self._arguments = (str(resize), str(image_size), "upright" if upright else "as stored")
        # places for processes; None: not started yet. The last one used comes first, so few are started for few files
        self._idle: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._finalizer = weakref.finalize(self, _close, self._idle)
        _POOLS.add(self)

    def decode(self, pictures: Sequence[Picture], out: npt.NDArray[np.uint8]) -> None:
        """Decode pictures[i] into out[i], uint8 [B, 3, image_size, image_size], contiguous.

        Raises:
            ValueError: naming the first file that cannot be decoded.
        """
        size = max(1, min(_CHUNK, len(pictures) // (2 * self.workers)))
        chunks = [slice(at, at + size) for at in range(0, len(pictures), size)]
        # threads are started per call: 0.1 ms against milliseconds of decoding, and nothing to close
        threads = ThreadPoolExecutor(min(self.workers, len(chunks) or 1), thread_name_prefix="drb-decode")
        try:
            parts = [pictures[chunk] for chunk in chunks]
            for _ in threads.map(self._decode, parts, [out[chunk] for chunk in chunks]):
                pass  # raises what a decoder raised
        finally:
            threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End the processes. Idempotent."""
        self._finalizer()

    def _decode(self, pictures: Sequence[Picture], out: npt.NDArray[np.uint8]) -> None:
        decoder = self._idle.get()
        try:
            decoder = decoder or _Decoder(self._arguments)
            decoder.decode(pictures, out)
        except _DeadDecoderError as death:
            decoder = None
            raise ValueError(str(death)) from None
        finally:
            self._idle.put(decoder)


class _DeadDecoderError(Exception):
    pass


class _Decoder:
    """One process, used by one thread at a time."""

    def __init__(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-c", _START, str(_PROGRAM), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout

    def decode(self, pictures: Sequence[Picture], out: npt.NDArray[np.uint8]) -> None:
        """All pictures, also after one that failed: so the pipe is empty again.

        A content is sent only when the reply to all before it has been read, so that no pipe fills at both ends.

        Raises:
            ValueError: a file cannot be decoded. _DeadDecoderError: the process has ended.
        """
        broken: str | None = None
        items = [picture if isinstance(picture, str) else len(picture[1]) for picture in pictures]
        self._send(json.dumps(items).encode() + b"\n", _name(pictures[0]))
        for picture, row in zip(pictures, out, strict=True):
            path = _name(picture)
            if not isinstance(picture, str):
                self._send(picture[1], path)
            status = self._replies.readline()
            if status == b"ok\n":
                if self._replies.readinto(memoryview(row).cast("B")) < row.nbytes:  # type: ignore[attr-defined]
                    self._raise_death(path)
            elif status.endswith(b"\n"):
                broken = broken or describe_broken_image(path, json.loads(status))
            else:
                self._raise_death(path)
        if broken is not None:
            raise ValueError(broken)

    def close(self) -> None:
        self._requests.close()
        self._replies.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # inside a read that does not end
            self._process.kill()
            self._process.wait()

    def _send(self, content: bytes, path: str) -> None:
        try:
            self._requests.write(content)
            self._requests.flush()
        except BrokenPipeError:
            self._raise_death(path)

    def _raise_death(self, path: str) -> None:
        self._process.kill()  # it may only have closed its output
        code = self._process.wait()
        self._replies.close()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        raise _DeadDecoderError(
            f"a decoding process ended (exit code {code}) with the image file {shown(path)}; if it ran out of memory, "
            "lower dataset.workers"
        )


def _name(picture: Picture) -> str:
    return picture if isinstance(picture, str) else picture[0]


def shown(path: str | os.PathLike[str]) -> str:
    """A path on one line that every terminal can print, whatever is in its name."""
    text = os.fspath(path)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def describe_broken_image(path: str, error: str) -> str:
    return f"the image file {shown(path)} cannot be decoded ({error}); replace or remove it"


def _close(idle: queue.LifoQueue[_Decoder | None]) -> None:
    while True:
        try:
            decoder = idle.get_nowait()
        except queue.Empty:
            return
        if decoder is not None:
            decoder.close()
