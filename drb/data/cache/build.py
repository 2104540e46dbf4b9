"""Opens a cache, or builds it: one process of all that share the folder decodes, the others wait and say so.

The lock is flock's: the kernel releases it when its holder dies, and whoever waited begins anew. A decode that fails by
itself leaves its reason in NAME-KEY.failed, so that those who waited for it fail alike and do not decode again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drb.data.cache.files import SPLITS, image_file, key_of, open_cache
from drb.data.cache.place import CacheSettings
from drb.data.cache.writing import marks_of, publish, sync, write_columns, write_header, write_meta
from drb.data.source import Dataset, Source
from drb.machine import format_bytes
from drb.types import BoolArray

Say = Callable[[str], None]

_BLOCK_BYTES = 16 << 20  # gathered and written at once
_POLL_S = 0.2  # how often the lock is tried: flock can wait, but not tell how far the other one is
_SAY_EVERY_S = 10.0


def cached(
    name: str, root: Path, load: Callable[[], Dataset], facts: Mapping[str, Any], settings: CacheSettings, say: Say
) -> Dataset:
    """The dataset that `load` gives, mapped from its cache, which is made if need be; as loaded if it is not to be.

    Args:
        name, facts: what the dataset is made from; anything that changes its images or labels must be in them.
        root: where its files lie.
        say: told, in lines, what is done, how large it will be and how far it is.
    Raises:
        ValueError: the data cannot be read or, with mode=always, not be cached.
    """
    if settings.mode == "never":
        return load()
    folder = settings.folder_for(root) / f"{name}-{key_of(facts)}"
    dataset = _open_whole(folder, say)
    if dataset is not None:
        return dataset
    try:
        with _sole_builder(folder, say) as has_waited:
            return _open_whole(folder, say) or _build_or_load(folder, load, facts, settings, say, has_waited)
    except OSError as error:
        reason = f"the cache {folder} cannot be written ({error.strerror or error})"
        if settings.mode == "always":
            raise ValueError(f"{reason}; set dataset.cache_dir to another disk or dataset.cache=never") from error
        say(f"{reason}; every rank reads {name} by itself")
        return load()


def _open_whole(folder: Path, say: Say) -> Dataset | None:
    try:
        return open_cache(folder)
    except ValueError as error:
        say(f"{error}: it is made again")
        return None


@contextlib.contextmanager
def _sole_builder(folder: Path, say: Say) -> Iterator[bool]:
    """Inside, no other process builds this cache. Gives whether one did when it was asked for.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _beside(folder, "lock").open("w") as lock:
        has_waited, progress, next_line = False, "", time.monotonic() + _SAY_EVERY_S
        while not _try_lock(lock.fileno()):
            has_waited, is_first = True, not progress
            progress = _progress_of(folder)
            if (progress and is_first) or time.monotonic() >= next_line:
                say(f"waiting for another process that makes {folder}{progress}")
                next_line = time.monotonic() + _SAY_EVERY_S
            time.sleep(_POLL_S)
        yield has_waited


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _build_or_load(
    folder: Path, load: Callable[[], Dataset], facts: Mapping[str, Any], settings: CacheSettings, say: Say, waited: bool
) -> Dataset:
    failure = _beside(folder, "failed")
    if waited and failure.exists():
        raise ValueError(failure.read_text(encoding="utf-8"))
    failure.unlink(missing_ok=True)
    try:
        dataset = load()
        if others := sorted(getattr(dataset.train, "columns", {}).keys() - {"image", "label", "sample_id"}):
            say(f"not cached: a cache keeps images and labels, and these samples have {', '.join(others)}, too")
            return dataset
        size = sum(len(source) for source in (dataset.train, dataset.test)) * dataset.sample_bytes
        objection = settings.objection(size, folder.parent)
        if objection is not None:
            say(f"the images are not cached: {objection}")
            return dataset
        size_text = f"{format_bytes(size)}, {format_bytes(shutil.disk_usage(folder.parent).free)} free"
        say(f"making {folder}: {size_text}")
        _build(folder, dataset, facts, size_text, say)
    except ValueError as error:
        failure.write_text(str(error), encoding="utf-8")
        raise
    finally:
        shutil.rmtree(_partial(folder), ignore_errors=True)
    cache = open_cache(folder)
    if cache is None:
        raise ValueError(f"the cache {folder} has vanished; start again")
    return cache


def _build(folder: Path, dataset: Dataset, facts: Mapping[str, Any], size_text: str, say: Say) -> None:
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    progress = _Progress(partial, size_text, len(dataset.train) + len(dataset.test), say)
    for split, source in zip(SPLITS, (dataset.train, dataset.test), strict=True):
        erased = marks_of(folder, split, source.sample_ids, facts)
        _write_samples(image_file(partial, split), dataset, source, erased, progress)
        write_columns(partial, split, source)
    progress.file.unlink(missing_ok=True)
    write_meta(partial, dataset, facts)
    publish(partial, folder)


def _write_samples(path: Path, dataset: Dataset, source: Source, erased: BoolArray, progress: _Progress) -> None:
    """Write with ordinary writes: a full disk is then an error, not a SIGBUS as in a mapped file."""
    with path.open("wb") as file:
        write_header(file, dataset, len(source))
        size = max(1, _BLOCK_BYTES // dataset.sample_bytes)
        for at in range(0, len(source), size):
            indices = np.arange(at, min(at + size, len(source)))
            images = source.gather(indices)["image"].numpy()
            images[erased[indices]] = 0
            file.write(np.ascontiguousarray(images).data)
            progress.add(len(indices))
        file.flush()
        sync(file.fileno())


class _Progress:
    """Told to the user, and through a file to those who wait."""

    def __init__(self, partial: Path, size_text: str, total: int, say: Say) -> None:
        self.file = partial / "progress"
        self.file.write_text(size_text, encoding="utf-8")
        self._size_text = size_text
        self._total = total
        self._say = say
        self._done = 0
        self._next_note = self._start = time.monotonic()
        self._next_line = self._start + _SAY_EVERY_S

    def add(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now >= self._next_note:
            left_s = (now - self._start) / self._done * (self._total - self._done)
            text = f"{self._done} of {self._total} images, {left_s:.0f} s left"
            self.file.write_text(f"{self._size_text}; {text}", encoding="utf-8")
            self._next_note = now + 1
            if now >= self._next_line:
                self._say(text)
                self._next_line = now + _SAY_EVERY_S


def _progress_of(folder: Path) -> str:
    try:
        return f": {(_partial(folder) / 'progress').read_text(encoding='utf-8')}"
    except OSError:
        return ""


def _partial(folder: Path) -> Path:
    """Each node's own: some shared file systems have locks that only one node sees."""
    return _beside(folder, f"partial-{socket.gethostname()}")


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")
