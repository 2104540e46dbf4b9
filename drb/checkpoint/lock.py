"""One process at a time changes a run's checkpoints: the run itself, or a command that rewrites them."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

from drb.checkpoint.errors import CheckpointError

_NAME = ".lock"
_RETRY_S = 0.2


_held: weakref.WeakValueDictionary[tuple[str, str], RunLock] = weakref.WeakValueDictionary()


def lock_run(run_dir: Path, holder: str, *, patience_s: float = 0.0) -> RunLock:
    """As `RunLock`; the same one, if this process has one for the same holder that was not released."""
    name = (str(run_dir.resolve()), holder)
    lock = _held.get(name)
    if lock is None or not lock.release.alive:
        lock = _held[name] = RunLock(run_dir, holder, patience_s=patience_s)
    return lock


class RunLock:
    """A lock that the kernel gives up when its holder dies, however it does. `release` it, or let go of the object.

    Where a file system has no locks nothing is locked.
    """

    def __init__(self, run_dir: Path, holder: str, *, patience_s: float = 0.0) -> None:
        """
        Args:
            holder: what others are told that the run directory is in use by.
            patience_s: how long to wait for another holder; one that was killed on another node is held for a while.
        Raises:
            CheckpointError: another process holds it.
        """
        path = run_dir / _NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.release = weakref.finalize(self, os.close, descriptor)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    other = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                    self.release()
                    raise CheckpointError(f"{run_dir} is in use by {other}; wait for its end, or stop it") from None
            except OSError:
                return
            time.sleep(_RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{holder} (process {os.getpid()} on {os.uname().nodename})\n".encode(), 0)
