"""Rows in a file on a disk of the node (`storage=mmap`): the page cache holds what is used, and there may be more.

The file is made in a folder that is this run's while it runs. All of its blocks are reserved before the first row is
written: a disk that fills up afterwards would end the process with SIGBUS. The name is unlinked at once, so that the
kernel frees the blocks however the process ends; what a process leaves that is killed before that is removed by the
next run in the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from drb.buffer.storage.shared import PREFIX, SharedSegment
from drb.types import Int64Array

_OF_MEMORY = ("tmpfs", "ramfs")


class FileSegment(SharedSegment):
    """A segment whose memory is a file on a disk."""

    def _too_small(self, free: str, needed: str) -> str:
        folder = os.path.dirname(self.path)
        return (
            f"storage=mmap: {folder} has {free} left, but this rank's buffer needs {needed} of it; free some, lower "
            "the capacity or give another storage_folder"
        )


class MappedRows:
    """rows: int64 [num_rows, words] in a file of this process alone, zeroed; `sync` writes them to the disk.

    Raises:
        ValueError: the folder's disk is too small, or no file can be made there.
    """

    def __init__(self, num_rows: int, words: int, folder: str) -> None:
        size_bytes = max(num_rows * words, 1) * 8  # an empty file cannot be mapped
        try:
            segment = FileSegment.create(size_bytes, folder)
        except OSError as error:
            raise ValueError(f"storage=mmap: no file can be made in {folder}: {error.strerror}") from None
        try:
            segment.reserve(0, size_bytes)
        finally:
            segment.unlink()
        self.rows: Int64Array = segment.words[: num_rows * words].reshape(num_rows, words)
        self.sync = segment.sync


def remove_leftovers(folder: Path) -> None:
    """Remove the files of runs that were killed before they could unlink them. Nobody else may use the folder."""
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)


def is_in_memory(folder: Path) -> bool:
    """Whether the file system of a folder has no disk, so that files there take memory."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(kind in _OF_MEMORY for mounted, kind in _mounts() if mounted == number)


def _mounts() -> Iterator[tuple[str, str]]:
    """The device number and the kind of every file system, as far as the system tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        yield before.split()[2], after.split()[0]
