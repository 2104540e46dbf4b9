"""Samples that are read from files whenever they are gathered; labels and ids lie in memory.

Shapes: n samples of this source, B rows of a minibatch.
"""

from __future__ import annotations

import abc
import copy
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from drb.types import Int64Array, Minibatch

_Self = TypeVar("_Self", bound="FileSource")  # typing.Self is of Python 3.11


class FileSource(abc.ABC):
    """Some of the samples that files hold; a class derived from it reads them."""

    in_memory = False

    def __init__(
        self,
        rows: Int64Array,
        labels: Int64Array,
        sample_ids: Int64Array,
        *,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike = np.uint8,
    ) -> None:
        """
        Args:
            rows: int64 [n], which samples of the files these are; labels and sample_ids int64 [n] are theirs.
            shape, dtype: of a sample in a minibatch.
        """
        self._rows = rows
        self._labels = labels
        self._sample_ids = sample_ids
        self._shape = shape
        self._dtype = np.dtype(dtype)

    @property
    def labels(self) -> Int64Array:
        return self._labels

    @property
    def sample_ids(self) -> Int64Array:
        return self._sample_ids

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, indices: Int64Array) -> Minibatch:
        """See `Source.gather`. Thread-safe.

        Raises:
            ValueError: a sample cannot be read or decoded; the message names it.
        """
        images = np.empty((len(indices), *self._shape), self._dtype)
        self._read(self._rows[indices], images)
        return {
            "image": torch.from_numpy(images),
            "label": torch.from_numpy(self._labels[indices]),
            "sample_id": torch.from_numpy(self._sample_ids[indices]),
        }

    def subset(self: _Self, indices: Int64Array) -> _Self:
        part = copy.copy(self)
        part._rows, part._labels = self._rows[indices], self._labels[indices]
        part._sample_ids = self._sample_ids[indices]
        return part

    @abc.abstractmethod
    def _read(self, rows: Int64Array, out: npt.NDArray[Any]) -> None:
        """Read the samples `rows`, int64 [B], into out, [B, *shape], contiguous. Thread-safe; raises ValueError."""
