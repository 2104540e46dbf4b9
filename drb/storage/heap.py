"""Rows in this process's own memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from drb.types import ROW_ALIGNMENT_BYTES, Int64Array


class HeapStorage:
    """rows: int64 [num_rows, words], aligned, allocated once and freed with this object.

    pin: page-locked, so that copies to a GPU are asynchronous. Only for small memory: torch rounds it up to a power of
    two (pytorch#150517), and rows of a buffer are gathered before anything is copied.
    """

    def __init__(self, num_rows: int, words: int, *, pin: bool = False) -> None:
        require_memory(num_rows * words * 8, available_memory_bytes(), "memory")
        if pin:
            self.rows: Int64Array = torch.zeros((num_rows, words), dtype=torch.int64, pin_memory=True).numpy()
        else:
            size = num_rows * words
            memory = np.zeros(size + ROW_ALIGNMENT_BYTES // 8, np.int64)  # padding too is saved: never old memory
            start = -memory.ctypes.data % ROW_ALIGNMENT_BYTES // 8
            self.rows = memory[start : start + size].reshape(num_rows, words)


def require_memory(needed: int, available: int, what: str) -> None:
    """Raise ValueError if a buffer cannot fit, before anything is allocated."""
    if needed > available:
        raise ValueError(
            f"the rehearsal buffer needs {needed / 2**30:.2f} GiB of {what}, {available / 2**30:.2f} GiB are free; "
            "lower rehearsal capacity"
        )


def available_memory_bytes(cgroup: str = "/sys/fs/cgroup") -> int:
    """Memory that can be allocated without swapping, in bytes: the kernel's estimate or the tightest cgroup's limit."""
    available = 1 << 62
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: let the allocator decide
    for group, (limit, used) in _cgroups(Path(cgroup)):
        with contextlib.suppress(OSError, ValueError):  # not of this version, no limit, or it is "max"
            available = min(available, _cgroup_available_bytes(group, limit, used))
    return available


_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def _cgroups(root: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """This process's groups and those around them, each with the names of its limit and usage.

    A container shows its own group as the root; a Slurm step's is deeper than its job's.
    """
    yield root, _V2
    yield root / "memory", _V1
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, names = (root / "memory", _V1) if controllers else (root, _V2)
            group = top / path.strip("/")
            while group != top:
                yield group, names
                group = group.parent


def _cgroup_available_bytes(group: Path, limit_name: str, used_name: str) -> int:
    """What the limit leaves. Cached files count as used but give way, so they are free: a data set that was read is."""
    limit, used = (int((group / name).read_text()) for name in (limit_name, used_name))
    amounts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return limit - used + int(amounts.get("inactive_file", 0)) + int(amounts.get("active_file", 0))
