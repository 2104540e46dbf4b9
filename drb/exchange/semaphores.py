"""POSIX semaphores in memory that processes share: the one way to wait for another process without a socket.

By ctypes from the C library: Python's own are handed from parent to child, and ranks have no parent that could do so.
They order memory as locks do: what was written before a post is seen after the wait.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

from drb.types import Int64Array

WORDS = 8  # of 64 bits per semaphore, a cache line; glibc's and musl's sem_t take half of it

_C = ctypes.CDLL(None, use_errno=True)  # lets go of the interpreter lock: for calls that block
_C_KEEPING_LOCK = ctypes.PyDLL(None, use_errno=True)  # twice as fast: for those that do not


_HAS_CLOCKWAIT = hasattr(_C, "sem_clockwait")  # glibc 2.30; older ones wait by a clock that may be set


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class Semaphore:
    """A view of WORDS words of shared memory, which must outlive it. One process calls `init` before any other use."""

    def __init__(self, words: Int64Array) -> None:
        if words.size != WORDS or not words.flags.c_contiguous:
            raise ValueError(f"a semaphore takes {WORDS} words in a row, got {list(words.shape)}")
        self._words = words
        self._address = ctypes.c_void_p(words.ctypes.data)

    def init(self, value: int = 0) -> None:
        if _C.sem_init(self._address, 1, value) != 0:
            raise OSError(ctypes.get_errno(), f"sem_init: {os.strerror(ctypes.get_errno())}")

    def post(self) -> None:
        _C_KEEPING_LOCK.sem_post(self._address)

    def take(self) -> bool:
        """Take one if there is one now."""
        taken: bool = _C_KEEPING_LOCK.sem_trywait(self._address) == 0
        return taken

    def wait(self, timeout_s: float) -> bool:
        """Take one; False if there was none in time."""
        if self.take():
            return True
        until = (time.monotonic if _HAS_CLOCKWAIT else time.time)() + timeout_s
        deadline = _Timespec(int(until), int(until % 1 * 1e9))
        while _wait_until(self._address, ctypes.byref(deadline)) != 0:
            if ctypes.get_errno() == errno.ETIMEDOUT:
                return False
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), f"waiting for a semaphore: {os.strerror(ctypes.get_errno())}")
        return True


def _wait_until(address: ctypes.c_void_p, deadline: object) -> int:
    if _HAS_CLOCKWAIT:
        code: int = _C.sem_clockwait(address, time.CLOCK_MONOTONIC, deadline)
    else:
        code = _C.sem_timedwait(address, deadline)
    return code
