"""Rows on disk: files that never change, and that later checkpoints link as long as they need them.

A rank writes only rows that are in none of its files yet, into a new file: a *shard*. The next checkpoint gets hard
links to earlier shards (or copies, if the file system has no hard links), so every checkpoint directory is complete in
itself. A shard of which less than half is still stored is not linked; its remaining rows are written again. So at most
one row is rewritten for each row that was replaced, and files take at most twice the buffer's size. Beyond MOST_SHARDS
the smaller half of the shards is merged into one.

Letters: n rows of a state, K words of a row.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drb.buffer.snapshot import LazyRows
from drb.checkpoint.encryption import Key
from drb.checkpoint.files import FileRecord, sync_file, write_rows
from drb.types import BoolArray, Int64Array

MOST_SHARDS = 32
_BLOCK_BYTES = 4 << 20  # read from the buffer and written at a time
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES)


@dataclass(frozen=True)
class RowTable:
    """Where rows are: row i is row position[i] of shards[shard[i]]; int64 [n] each.

    Attributes:
        files: the records of the shards.
        new_bytes: the size of the shard that was written now.
    """

    shards: Sequence[str]
    shard: Int64Array
    position: Int64Array
    files: Mapping[str, FileRecord]
    new_bytes: int


@dataclass(frozen=True)
class _Shard:
    name: str
    record: FileRecord
    num_rows: int


class RowShards:
    """The shards of one rank's rows in the newest checkpoint that this process has written."""

    def __init__(self, stem: str) -> None:
        """
        Args:
            stem: how their names begin. No two objects create the same name, so links never collide.
        """
        self._stem = f"{stem}.rows-{secrets.token_hex(4)}"
        self._serial = 0
        self._folder: Path | None = None
        self._shards: list[_Shard] = []
        self._versions: Int64Array = np.empty(0, np.int64)  # ascending, with the place of each
        self._shard: Int64Array = np.empty(0, np.int64)
        self._position: Int64Array = np.empty(0, np.int64)

    def write(self, folder: Path, final: Path, rows: LazyRows, key: Key | None) -> RowTable:
        """Put all rows into files of `folder`, which will become `final`, by links and one new file."""
        shard, position = self._locate(rows.versions, len(rows))
        shards, shard = self._link(folder, shard)
        fresh = np.flatnonzero(shard < 0)
        rows.need_only(fresh)
        new_bytes = 0
        if len(fresh):
            shards.append(self._write(folder, rows, fresh, key))
            new_bytes = shards[-1].record.size_bytes
            shard[fresh] = len(shards) - 1
            position[fresh] = np.arange(len(fresh))
        self._remember(final, shards, rows.versions, shard, position)
        return RowTable([s.name for s in shards], shard, position, {s.name: s.record for s in shards}, new_bytes)

    def _locate(self, versions: Int64Array | None, num_rows: int) -> tuple[Int64Array, Int64Array]:
        """The shard (-1: none) and the position of each row."""
        if versions is None or not len(self._versions):
            return np.full(num_rows, -1, np.int64), np.zeros(num_rows, np.int64)
        place = np.searchsorted(self._versions, versions).clip(max=len(self._versions) - 1)
        is_known = self._versions[place] == versions
        return np.where(is_known, self._shard[place], -1), np.where(is_known, self._position[place], 0)

    def _link(self, folder: Path, shard: Int64Array) -> tuple[list[_Shard], Int64Array]:
        """Link the shards that stay into the folder; returns them, and the shard of each row (-1: none)."""
        stays = self._worth_keeping(np.bincount(shard[shard >= 0], minlength=len(self._shards)))
        kept = [s for s, is_kept in zip(self._shards, stays, strict=True) if is_kept]
        try:
            for s in kept:
                assert self._folder is not None
                _link_or_copy(self._folder / s.name, folder / s.name)
        except FileNotFoundError:  # somebody has removed or rewritten that checkpoint: the rows are still in memory
            kept, stays = [], np.zeros(len(stays), np.bool_)
        new_index = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)  # the last is that of shard -1
        return kept, new_index[shard]

    def _worth_keeping(self, num_live: Int64Array) -> BoolArray:
        sizes = np.array([s.num_rows for s in self._shards], np.int64)
        stays: BoolArray = (2 * num_live >= sizes) & (num_live > 0)
        if np.count_nonzero(stays) >= MOST_SHARDS:
            kept = np.flatnonzero(stays)
            smaller = kept[np.argsort(sizes[kept], kind="stable")][: len(kept) // 2]
            stays[smaller] = False
        return stays

    def _write(self, folder: Path, rows: LazyRows, fresh: Int64Array, key: Key | None) -> _Shard:
        self._serial += 1
        words = rows.shape[1]
        step = max(1, _BLOCK_BYTES // (8 * words))
        memory: Int64Array = np.empty((min(step, len(fresh)), words), np.int64)

        def block(start: int) -> Int64Array:
            index = fresh[start : start + step]
            rows.take(index, memory[: len(index)])
            return memory[: len(index)]

        blocks = (block(start) for start in range(0, len(fresh), step))
        files = write_rows(folder, f"{self._stem}-{self._serial:04d}", len(fresh), words, blocks, key)
        ((name, record),) = files.items()
        return _Shard(name, record, len(fresh))

    def _remember(
        self, final: Path, shards: list[_Shard], versions: Int64Array | None, shard: Int64Array, position: Int64Array
    ) -> None:
        self._folder, self._shards = final, shards
        if versions is None:
            self._versions = np.empty(0, np.int64)
            return
        order = np.argsort(versions)
        self._versions, self._shard, self._position = versions[order], shard[order], position[order]


class StoredRows(LazyRows):
    """Rows in several arrays, each of which is opened when it is first needed."""

    def __init__(
        self, arrays: Sequence[Callable[[], Int64Array]], shard: Int64Array, position: Int64Array, words: int
    ) -> None:
        """Row i is row position[i] of arrays[shard[i]](); int64 [n] each."""
        super().__init__(len(shard), words)
        self._openers = arrays
        self._arrays: list[Int64Array | None] = [None] * len(arrays)
        self._shard, self._position = shard, position

    @classmethod
    def of(cls, rows: Int64Array) -> StoredRows:
        """The rows of an array in memory, int64 [n, K]."""
        return cls([lambda: rows], np.zeros(len(rows), np.int64), np.arange(len(rows)), rows.shape[1])

    def select(self, index: Int64Array | BoolArray) -> StoredRows:
        """The chosen rows in this order, not read yet."""
        return StoredRows(self._openers, self._shard[index], self._position[index], self.shape[1])

    def require_reachable(self, name: str) -> None:
        """Raise ValueError unless every row is in one of the arrays, each in a place of its own."""
        if len(self._shard) != len(self._position):
            raise ValueError(f"{name}/shard has {len(self._shard)} values, position has {len(self._position)}")
        if len(self) and not 0 <= self._shard.min() <= self._shard.max() < len(self._openers):
            raise ValueError(f"{name}/shard names file {self._shard.max()}, there are {len(self._openers)}")
        for number in range(len(self._openers)):
            rows, position = self._open(number), self._position[self._shard == number]
            if rows.shape[1:] != self.shape[1:]:
                raise ValueError(f"{name}: rows of {self.shape[1]} words are in a file of {rows.shape[1:]}")
            if len(position) and not 0 <= position.min() <= position.max() < len(rows):
                raise ValueError(f"{name}/position names row {position.max()} of a file of {len(rows)}")
            if len(np.unique(position)) != len(position):
                raise ValueError(f"{name}/position names one row of a file twice")

    def read(self, index: Int64Array, out: Int64Array) -> None:
        shard, position = self._shard[index], self._position[index]
        for number in np.unique(shard).tolist():
            chosen = np.flatnonzero(shard == number)
            out[chosen] = self._open(number)[position[chosen]]

    def column(self, word: int) -> Int64Array:
        values: Int64Array = np.empty(len(self), np.int64)
        for number in np.unique(self._shard).tolist():
            chosen = np.flatnonzero(self._shard == number)
            values[chosen] = self._open(number)[self._position[chosen], word]
        return values

    def _open(self, number: int) -> Int64Array:
        array = self._arrays[number]
        if array is None:
            array = self._arrays[number] = self._openers[number]()
        return array


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy(source, target)
        sync_file(target)
