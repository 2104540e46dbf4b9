"""Rows as they were at a moment, without copying them: for a checkpoint that is written while training goes on.

A buffer's rows are copy-on-write, so those of a moment change only when a spare row is filled again. `RowWatch` is told
before that happens: rows that a `RowSnapshot` still has to be read from are copied aside first. It also numbers each
writing of a row, so that a later snapshot shows which rows are the same as before.

Two threads: the owner of the rows calls `RowWatch.before_writing`, one reader `RowSnapshot.take`. The reader copies
rows without the lock and looks afterwards, with it, which of them were set aside meanwhile: those copies count.

Letters: n rows of a snapshot, K words of a row, P rows of the memory (with spares).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from drb.types import BoolArray, Int64Array

_ASIDE_SHARE = 8  # the memory for rows set aside is this fraction of all rows …
_ASIDE_BYTES = 64 << 20  # … or this much


class LazyRows:
    """Rows that are read when they are asked for: int64 [n, K]. Indexing them by rows gives an array.

    versions: int64 [n]: two rows with the same number are the same, in all snapshots of a buffer; None: not known.
    """

    versions: Int64Array | None = None

    def __init__(self, num_rows: int, words: int) -> None:
        self.shape = (num_rows, words)

    def read(self, index: Int64Array, out: Int64Array) -> None:
        """out[i] = row index[i]; int64 [A] and [A, K]."""
        raise NotImplementedError

    def take(self, index: Int64Array, out: Int64Array) -> None:
        """Read rows that will not be asked for again."""
        self.read(index, out)

    def need_only(self, index: Int64Array) -> None:
        """The other rows will not be asked for again."""

    def select(self, index: Int64Array) -> LazyRows | Int64Array:
        """Some rows in this order, read no earlier than this kind of rows needs it."""
        return self[index]

    def close(self) -> None:
        """No row will be asked for again."""

    def column(self, word: int) -> Int64Array:
        """One word of every row: int64 [n]."""
        return np.concatenate([np.empty(0, np.int64), *(block[:, word] for block in self.blocks())])

    def blocks(self, block_bytes: int = 16 << 20) -> Any:
        """All rows in order, a few at a time: arrays [at most so many bytes, K]."""
        step = max(1, block_bytes // (8 * self.shape[1]))
        for start in range(0, len(self), step):
            yield self[start : start + step]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Int64Array:
        """Rows by an integer, a slice, a mask or an array of integers."""
        chosen = np.arange(len(self))[index]
        out: Int64Array = np.empty((chosen.size, self.shape[1]), np.int64)
        self.read(chosen.reshape(-1), out)
        return out if chosen.ndim else out[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self[:] if dtype is None else self[:].astype(dtype)


class RowSnapshot(LazyRows):
    """The rows at `where`, int64 [n], as they are now. `close` it, or the owner goes on setting rows aside.

    Reading it after that raises ValueError.
    """

    def __init__(self, rows: Int64Array, where: Int64Array, versions: Int64Array, aside: Int64Array) -> None:
        super().__init__(len(where), rows.shape[1])
        self.versions = versions
        self._rows, self._where, self._aside = rows, where, aside
        self._index_of: Int64Array = np.full(len(rows), -1, np.int64)
        self._index_of[where] = np.arange(len(where))
        self._is_needed: BoolArray = np.ones(len(where), np.bool_)
        self._aside_at: Int64Array = np.full(len(where), -1, np.int64)
        self._num_aside = 0
        self._is_closed = False
        self._progress = threading.Condition()

    def read(self, index: Int64Array, out: Int64Array) -> None:
        _take(self._rows, self._where[index], out)
        with self._progress:
            self._correct(index, out)

    def take(self, index: Int64Array, out: Int64Array) -> None:
        _take(self._rows, self._where[index], out)
        with self._progress:
            self._correct(index, out)
            self._is_needed[index] = False
            self._progress.notify_all()

    def need_only(self, index: Int64Array) -> None:
        with self._progress:
            needed = np.zeros(len(self), np.bool_)
            needed[index] = True
            self._is_needed &= needed
            self._progress.notify_all()

    def close(self) -> None:
        with self._progress:
            self._is_closed = True
            self._is_needed[:] = False
            self._progress.notify_all()

    def set_aside(self, where: Int64Array) -> None:
        """The owner is about to write to these rows of the memory. Waits for the reader if too many were set aside."""
        index = self._index_of[where]
        index = index[index >= 0]
        if not len(index):
            return
        with self._progress:
            index = self._wanted(index)
            if self._num_aside + len(index) > len(self._aside):
                self._progress.wait_for(lambda: not len(self._wanted(index)))
                return
            places = np.arange(self._num_aside, self._num_aside + len(index))
            self._num_aside += len(index)
            self._aside[places] = self._rows[self._where[index]]
            self._aside_at[index] = places

    def _wanted(self, index: Int64Array) -> Int64Array:
        """The rows that were neither read nor set aside."""
        wanted: Int64Array = index[self._is_needed[index] & (self._aside_at[index] < 0)]
        return wanted

    def _correct(self, index: Int64Array, out: Int64Array) -> None:
        if self._is_closed:
            raise ValueError("this snapshot is over: a later one was taken, or it was closed, before it was read")
        places = self._aside_at[index]
        moved = np.flatnonzero(places >= 0)
        if len(moved):
            out[moved] = self._aside[places[moved]]


class RowWatch:
    """Watches the rows of one buffer, int64 [P, K]. At most one snapshot is open: a new one closes the one before."""

    def __init__(self, rows: Int64Array) -> None:
        self._rows = rows
        self._version: Int64Array = np.arange(len(rows), dtype=np.int64)
        self._next_version = len(rows)
        self._snapshot: Callable[[], RowSnapshot | None] = lambda: None  # while somebody has it
        row_bytes = 8 * rows.shape[1]
        num_aside = max(len(rows) // _ASIDE_SHARE, _ASIDE_BYTES // row_bytes, 1)
        self._aside: Int64Array = np.empty((min(num_aside, len(rows)), rows.shape[1]), np.int64)  # untouched: no memory

    def snapshot(self, where: Int64Array) -> RowSnapshot:
        """The rows at these places of the memory, int64 [n], distinct."""
        earlier = self._snapshot()
        if earlier is not None:
            earlier.close()
        snapshot = RowSnapshot(self._rows, where, self._version[where], self._aside)
        self._snapshot = weakref.ref(snapshot)
        return snapshot

    def before_writing(self, where: Int64Array) -> None:
        """The owner is about to write to these rows, int64 [A]: call it before every change, also of a part of them."""
        if not len(where):
            return
        snapshot = self._snapshot()
        if snapshot is not None:
            snapshot.set_aside(where)
        self._version[where] = np.arange(self._next_version, self._next_version + len(where))
        self._next_version += len(where)

    def erase(self) -> None:
        """Overwrite what was set aside for snapshots that are closed: it may hold rows that must be forgotten."""
        self._aside[:] = 0


def _take(rows: Any, index: Int64Array, out: Int64Array) -> None:
    """out[i] = rows[index[i]]; rows: an array, or what is indexed like one."""
    if isinstance(rows, np.ndarray):
        np.take(rows, index, axis=0, out=out, mode="clip")
    else:
        out[:] = rows[index]


def state_with_rows(state: Mapping[str, Any], lazy: bool) -> dict[str, Any]:
    """A rehearsal's loaded state, its rows as an array unless `lazy`."""
    buffer = state.get("buffer")
    if buffer is None or lazy:
        return dict(state)
    return {**state, "buffer": {**buffer, "rows": np.asarray(buffer["rows"])}}
