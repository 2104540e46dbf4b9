"""Rows in this process's own memory, page-locked where CUDA is present so that copies to the GPU are asynchronous."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch

from drb.types import Int64Array


class HeapStorage:
    """rows: int64 [num_rows, words], allocated once and freed with this object."""

    def __init__(self, num_rows: int, words: int, *, pin: bool | None = None) -> None:
        require_memory(num_rows * words * 8, available_memory_bytes(), "memory")
        pin = torch.cuda.is_available() if pin is None else pin
        if pin:
            self.rows: Int64Array = torch.zeros((num_rows, words), dtype=torch.int64, pin_memory=True).numpy()
        else:
            self.rows = np.zeros((num_rows, words), dtype=np.int64)  # padding too is saved: never old memory


def require_memory(needed: int, available: int, what: str) -> None:
    """Raise ValueError if a buffer cannot fit, before anything is allocated."""
    if needed > available:
        raise ValueError(
            f"the rehearsal buffer needs {needed / 2**30:.2f} GiB of {what}, {available / 2**30:.2f} GiB are free; "
            "lower rehearsal capacity"
        )


def available_memory_bytes(cgroup: str = "/sys/fs/cgroup") -> int:
    """Memory that can be allocated without swapping, in bytes: the kernel's estimate or the cgroup's limit."""
    available = 1 << 62
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: let the allocator decide
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or its limit is "max"
        available = min(available, _cgroup_available_bytes(Path(cgroup)))
    return available


def _cgroup_available_bytes(cgroup: Path) -> int:
    """What the limit leaves. Cached files count as used but give way, so they are free: a data set that was read is."""
    limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
    amounts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    return limit - used + int(amounts.get("inactive_file", 0)) + int(amounts.get("active_file", 0))
