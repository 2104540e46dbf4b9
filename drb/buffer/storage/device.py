"""Rows in a GPU's memory, for a buffer on the host: what is known of a record is here, its fields are there.

The steps of a run neither read nor write these rows from the host: admitted samples are scattered into `there` and
drawn ones gathered from it by whoever queues work on `stream`. What the host does between steps (a saved state, an
edit, erasure) goes through a few rows of page-locked memory, on the same stream. So all that touches rows has
one order.

Letters: N rows, K words of a row, n rows of a call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from drb.buffer.record import HEADER_WORDS
from drb.types import Int64Array

HEADER_BYTES = 8 * HEADER_WORDS  # of host memory for each row on a device
_CHUNK_BYTES = 4 << 20  # of rows on their way to or from the host
_MOST_ROWS = 1024


class RowDevice(Protocol):
    """What rows ask of a GPU: a part of `drb.rehearsal.cuda.Device`, which says what each operation does."""

    device: torch.device

    def side_stream(self) -> Any: ...

    def on(self, stream: Any) -> AbstractContextManager[Any]: ...

    def event(self) -> Any: ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, used_on: Sequence[Any] = ()) -> Tensor: ...

    def empty_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...

    def copy(self, target: Tensor, source: Tensor) -> None: ...

    def gather(self, source: Tensor, index: Tensor, out: Tensor) -> None: ...

    def scatter(self, target: Tensor, source: Tensor, where: Tensor) -> None: ...

    def zero(self, target: Tensor) -> None: ...


class DeviceRows:
    """Rows int64 [N, K] on a device, indexed like an array. On any thread; a call returns when its copies are done.

    `rows[index]`, `rows[index] = values` and `rows[index] = 0` take int64 [n] without duplicates, or a slice, and give
    or take arrays on the host. `rows[:, word]`, `rows[index, word]` and `rows[index, first:last]` are columns; those of
    the header are views of `headers` or are copied from there.

    headers: int64 [N, HEADER_WORDS] on the host. The device's words in their place have no meaning.
    there: int64 [N, K] on the device. stream: on which all that reads or writes it is queued.
    """

    def __init__(
        self,
        device: RowDevice,
        num_rows: int,
        words: int,
        *,
        there: Tensor | None = None,
        headers: Int64Array | None = None,
        stream: Any = None,
    ) -> None:
        """Zeroed rows. there, headers: memory for them; None to allocate it. stream: None for a new one."""
        self.shape, self.nbytes = (num_rows, words), num_rows * words * 8
        self.headers: Int64Array = np.zeros((num_rows, HEADER_WORDS), np.int64) if headers is None else headers
        self.stream = device.side_stream() if stream is None else stream
        self._device = device
        self._most = max(1, min(num_rows, _MOST_ROWS, _CHUNK_BYTES // (8 * words)))
        self._pinned = device.empty_pinned((self._most * words,), torch.int64)
        self._index = device.empty_pinned((self._most,), torch.int64)
        self.there = device.empty((num_rows, words), torch.int64, [self.stream]) if there is None else there[:num_rows]
        self._passing = device.empty((self._most * words,), torch.int64, [self.stream])
        self._index_there = device.empty((self._most,), torch.int64, [self.stream])
        self._done = device.event()
        self._lock = threading.Lock()
        with device.on(self.stream):
            device.zero(self.there)

    @property
    def device_bytes(self) -> int:
        """Bytes of the device's memory that the rows, and rows on their way, take."""
        return self.nbytes + self._passing.nbytes + self._index_there.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Int64Array:
        if isinstance(key, tuple):
            rows, words = key
            if isinstance(words, int) or (words.stop is not None and words.stop <= HEADER_WORDS):
                found: Int64Array = self.headers[key]
                return found
            first, last, _ = words.indices(self.shape[1])
            return self._read(self._rows_of(rows), first, last)
        return self._read(self._rows_of(key), 0, self.shape[1])

    def __setitem__(self, key: Any, values: Any) -> None:
        if isinstance(key, tuple):
            self.headers[key] = values  # nothing else is written by columns
            return
        index = self._rows_of(key)
        if isinstance(values, int):
            assert values == 0
            self._write(index, None)
            self.headers[index] = 0
        else:
            self._write(index, values)
            self.headers[index] = values[:, :HEADER_WORDS]

    def erase(self) -> None:
        """Zero the memory in which rows were on their way."""
        with self._lock, self._device.on(self.stream):
            self._pinned.zero_()
            self._device.zero(self._passing)
            self._wait()

    def _rows_of(self, key: Any) -> Int64Array:
        return np.arange(len(self))[key] if isinstance(key, slice) else np.asarray(key, np.int64)

    def _read(self, index: Int64Array, first: int, last: int) -> Int64Array:
        """The words first … last - 1 of rows: int64 [n, last - first]."""
        found: Int64Array = np.empty((len(index), last - first), np.int64)
        for start, rows, part in self._parts(index, last - first):
            self._device.gather(self.there[:, first:last], rows, part)
            pinned = self._pinned[: part.numel()].view_as(part)
            self._device.copy(pinned, part)
            self._wait()
            found[start : start + len(part)] = pinned.numpy()
        if first < HEADER_WORDS:
            found[:, : HEADER_WORDS - first] = self.headers[index, first:last]
        return found

    def _write(self, index: Int64Array, values: Int64Array | None) -> None:
        """Write values [n, K] into rows; None: zeros."""
        for start, rows, part in self._parts(index, self.shape[1]):
            if values is None:
                self._device.zero(part)
            else:
                pinned = self._pinned[: part.numel()].view_as(part)
                pinned.numpy()[:] = values[start : start + len(part)]
                self._device.copy(part, pinned)
            self._device.scatter(self.there, part, rows)
            self._wait()

    def _parts(self, index: Int64Array, words: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """A few rows at a time: where they begin in `index`, their numbers and memory for them, both on the device."""
        for start in range(0, len(index), self._most):
            part = index[start : start + self._most]
            with self._lock, self._device.on(self.stream):
                self._index.numpy()[: len(part)] = part
                rows = self._index_there[: len(part)]
                self._device.copy(rows, self._index[: len(part)])
                yield start, rows, self._passing[: len(part) * words].view(len(part), words)

    def _wait(self) -> None:
        self._done.record(self.stream)
        self._done.synchronize()
