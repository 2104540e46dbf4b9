"""Facts about this host: its memory, cores, node name and /dev/shm."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def format_bytes(num_bytes: float) -> str:
    """Format a number of bytes, for example '1.833 KiB'."""
    amount: float = num_bytes  # an integer may be too large for a float
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount = amount // 1024 if amount > 2**60 else amount / 1024
    return f"{amount:.4g} TiB" if amount < 1e4 else f"{amount:,.0f} TiB"


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
    """The control groups of this process and those around them, each with the names of its limit and usage files.

    A container sees its own group as the root; the group of a Slurm step is inside its job's.
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
    """Bytes that the limit leaves. Cached files, such as a data set that was read, count as free: they give way."""
    limit, used = (int((group / name).read_text()) for name in (limit_name, used_name))
    amounts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return limit - used + int(amounts.get("inactive_file", 0)) + int(amounts.get("active_file", 0))


def node_name() -> str:
    """Host name and boot id: two containers of one machine agree, two machines never do."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot_id = file.read().strip()
    except OSError:
        boot_id = "unknown"
    return f"{socket.gethostname()}/{boot_id}"


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on: launchers bind ranks to some of the machine's."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


SHM_DIRECTORY = "/dev/shm"


def free_shared_memory_bytes(directory: str = SHM_DIRECTORY) -> int:
    """Bytes of shared memory that are free on this node.

    If there is no such directory, the number is huge, and whoever uses it will report that it is missing.
    """
    try:
        stat = os.statvfs(directory)
    except OSError:
        return 1 << 62
    return stat.f_bavail * stat.f_frsize


def print_whatever_comes() -> None:
    """Let standard output and error replace characters that their encoding lacks, instead of raising on a log line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def git_commit() -> str | None:
    """The git commit of the checkout that drb is imported from, with '+' if files in it differ; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
