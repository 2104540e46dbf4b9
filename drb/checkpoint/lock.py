"""One process at a time changes a run's checkpoints: the run itself, or a command that rewrites them."""

from __future__ import annotations

import contextlib
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
    """A `RunLock`, or the one that this process already has for the same holder and has not released."""
    name = (str(run_dir.resolve()), holder)
    lock = _held.get(name)
    if lock is None or not lock.release.alive:
        lock = _held[name] = RunLock(run_dir, holder, patience_s=patience_s)
    return lock


class RunLock:
    """A lock on a run directory, which the kernel releases when its holder dies. Call `release`, or drop the object.

    On a file system without locks nothing is locked.
    """

    def __init__(self, run_dir: Path, holder: str, *, patience_s: float = 0.0) -> None:
        """
        Args:
            holder: who uses the run directory, for other processes' error messages.
            patience_s: how long to wait for another holder. A lock may outlive a process killed on another node.
        Raises:
            CheckpointError: another process holds it.
        """
        path = run_dir / _NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.release = weakref.finalize(self, _unlock, descriptor, os.getpid())
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
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{holder} (process {os.getpid()} on {os.uname().nodename})\n".encode(), 0)


def _unlock(descriptor: int, holder: int) -> None:
    """Also where forked processes have the descriptor, which would keep the lock; one of those only closes its own."""
    if os.getpid() == holder:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
