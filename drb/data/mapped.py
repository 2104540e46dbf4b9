"""Samples whose images lie in a file that is memory-mapped: one copy in the page cache for all ranks of a node.

A gather is one `np.take` of whole rows, as fast on uint8 as on wider words, and a subset is an index. What is erased
from the file while it is in use (`drb.data.cache.erase`) is refused, never given out as a blank image.

Shapes: n samples of this source, N rows of the file, B rows of a minibatch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drb.types import Allocate, BoolArray, Int64Array, Minibatch


class MappedSource:
    """Some or all rows of a mapped file of images."""

    in_memory = False  # not in this process's own: a subset need not be copied

    def __init__(
        self,
        images: npt.NDArray[Any],
        labels: Int64Array,
        sample_ids: Int64Array,
        erased: BoolArray,
        *,
        where: Path,
        rows: Int64Array | None = None,
    ) -> None:
        """
        Args:
            images: uint8 [N, C, H, W] or floats [N, …], normally mapped read-only.
            labels, sample_ids: int64 [N].
            erased: bool [N], mapped, so that it is seen when another process erases rows.
            where: the cache, for messages.
            rows: int64 [n], the rows that this source has; None for all.
        """
        self._images = images
        self._all_labels = labels
        self._all_ids = sample_ids
        self._all_erased = erased
        self._where = where
        self._rows = np.arange(len(images)) if rows is None else rows
        self._dtype = torch.from_numpy(np.empty(0, images.dtype)).dtype
        self._flat = images.reshape(len(images), math.prod(images.shape[1:]))

    @property
    def labels(self) -> Int64Array:
        return self._all_labels[self._rows]

    @property
    def sample_ids(self) -> Int64Array:
        return self._all_ids[self._rows]

    @property
    def erased(self) -> BoolArray:
        """Bool [n], as it is now."""
        return self._all_erased[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, indices: Int64Array, memory: Allocate | None = None) -> Minibatch:
        """See `Source.gather`.

        Args:
            memory: allocates the images; None: ordinary memory.
        Raises:
            ValueError: a sample has been erased.
        """
        rows = self._rows[indices]
        shape = (len(rows), *self._images.shape[1:])
        images = torch.empty(shape, dtype=self._dtype) if memory is None else memory(shape, self._dtype)
        self._read(rows, images.numpy().reshape(len(rows), self._flat.shape[1]))
        return {
            "image": images,
            "label": torch.from_numpy(self._all_labels[rows]),
            "sample_id": torch.from_numpy(self._all_ids[rows]),
        }

    def read(self, indices: Int64Array, out: npt.NDArray[Any]) -> tuple[Int64Array, Int64Array]:
        """Copy samples into out, [B, values of one], contiguous, in their dtype; return labels and ids, int64 [B] each.

        Raises:
            ValueError: a sample has been erased.
        """
        rows = self._rows[indices]
        self._read(rows, out)
        return self._all_labels[rows], self._all_ids[rows]

    def _read(self, rows: Int64Array, out: npt.NDArray[Any]) -> None:
        if self._all_erased[rows].any():
            gone = self._all_ids[rows[self._all_erased[rows]][0]]
            raise ValueError(
                f"the sample {gone} was erased from {self._where} while this run uses it; "
                "start the run again: it goes on without the sample"
            )
        np.take(self._flat, rows, axis=0, out=out, mode="clip")

    def subset(self, indices: Int64Array) -> MappedSource:
        return MappedSource(
            self._images,
            self._all_labels,
            self._all_ids,
            self._all_erased,
            where=self._where,
            rows=self._rows[indices],
        )
