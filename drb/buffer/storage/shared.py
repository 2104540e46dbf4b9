"""One shared-memory segment per node, from which every rank reads its peers' rows directly.

- `posix_fallocate` before the first touch: a full /dev/shm (64 MB in default containers) would otherwise end the
  process with SIGBUS.
- plain `os.open` + `mmap`: on Python 3.11 `multiprocessing.shared_memory` lets an attacher unlink the owner's segment.
- each rank allocates its own part, so that its pages lie on its own NUMA node.
- the name is unlinked as soon as all ranks have attached, so that even SIGKILL leaks nothing.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets

import numpy as np
from typing_extensions import Self

from drb.machine import SHM_DIRECTORY, free_shared_memory_bytes
from drb.types import Int64Array

PREFIX = "drb-"  # of the names of segments


class SharedSegment:
    """A mapped segment. `create` on one rank, `attach` by name on the others, then `reserve` and `unlink`."""

    def __init__(self, path: str, fd: int, size_bytes: int) -> None:
        self.path = path
        self._fd = fd
        self._map = mmap.mmap(fd, size_bytes)
        self.words: Int64Array = np.frombuffer(self._map, dtype=np.int64)

    @classmethod
    def create(cls, size_bytes: int, directory: str = SHM_DIRECTORY) -> Self:
        path = os.path.join(directory, f"{PREFIX}{secrets.token_hex(8)}")
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.ftruncate(fd, size_bytes)
            return cls(path, fd, size_bytes)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise

    @classmethod
    def attach(cls, path: str, size_bytes: int) -> Self:
        return cls(path, os.open(path, os.O_RDWR), size_bytes)

    def reserve(self, start_bytes: int, size_bytes: int) -> None:
        """Back this range with memory now. Raises ValueError if the node's shared memory is too small."""
        try:
            if size_bytes:
                os.posix_fallocate(self._fd, start_bytes, size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            free = free_shared_memory_bytes(os.path.dirname(self.path))
            amounts = (f"{amount / 2**20:.0f} MiB" for amount in (free, size_bytes))
            raise ValueError(self._too_small(*amounts)) from None

    def sync(self) -> None:
        """Wait until everything that was written to it is where it stays: for a file, on the disk."""
        self._map.flush()

    def unlink(self) -> None:
        """Remove the name; the memory lives until the last rank unmaps it. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _too_small(self, free: str, needed: str) -> str:
        return (
            f"{os.path.dirname(self.path)} has {free} left, but this rank's buffer needs {needed} of it; enlarge it "
            "(docker run --shm-size=…), lower the capacity or set exchange=collective"
        )
