"""Where samples come from: fixed sets that are gathered by index, a minibatch at a time.

Images are raw (uint8, neither augmented nor normalised): that is what a rehearsal buffer stores, and a
rehearsed sample is augmented afresh. Other samples are floats of any shape, such as [D] measurements or [T, C] values
over time. A source gathers whole minibatches; nothing is fetched one by one.

Shapes: n samples in the source, B rows of a minibatch, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drb.data.identity import Identity
from drb.types import Int64Array, Minibatch


class Source(Protocol):
    """A fixed set of n samples, gathered by index."""

    @property
    def labels(self) -> Int64Array:
        """int64 [n]."""
        ...

    @property
    def sample_ids(self) -> Int64Array:
        """int64 [n], unique in the whole stream."""
        ...

    @property
    def in_memory(self) -> bool:
        """True if the samples are in this process's own memory; False if they are in files, mapped or to be decoded."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Int64Array) -> Minibatch:
        """The samples at `indices`, int64 [B] in [0, n): `image` uint8 [B, C, H, W] (or floats [B, …]), `label` and
        `sample_id` int64 [B].

        Task-incremental sources add `task`, int64 [B]. The memory is the caller's.
        """
        ...

    def subset(self, indices: Int64Array) -> Source:
        """A source of the samples at `indices`, in that order; it keeps nothing of the others alive if in memory."""
        ...


class TensorSource:
    """Samples held as one tensor per column."""

    in_memory = True

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        """Keep `columns`, each [n, *shape], uncopied; `label` and `sample_id` (int64) must be among them.

        Raises:
            ValueError: a column is missing or has another length or dtype.
        """
        self.columns = dict(columns)
        for name in ("label", "sample_id"):
            if name not in self.columns or self.columns[name].dtype != torch.int64:
                raise ValueError(f"a TensorSource needs an int64 column {name!r}, got {_describe(self.columns)}")
        if len({len(column) for column in self.columns.values()}) != 1:
            raise ValueError(f"the columns of a TensorSource must be equally long, got {_describe(self.columns)}")

    @property
    def labels(self) -> Int64Array:
        return self.columns["label"].numpy()

    @property
    def sample_ids(self) -> Int64Array:
        return self.columns["sample_id"].numpy()

    def __len__(self) -> int:
        return len(self.columns["label"])

    def gather(self, indices: Int64Array) -> Minibatch:
        rows = torch.from_numpy(np.ascontiguousarray(indices))
        return {name: column.index_select(0, rows) for name, column in self.columns.items()}

    def subset(self, indices: Int64Array) -> TensorSource:
        return TensorSource(self.gather(indices))


@dataclass(frozen=True)
class Arrival:
    """A part of a data set that came by itself: so many training and test samples, behind those of the parts before."""

    name: str
    num_train: int
    num_test: int


@dataclass(frozen=True)
class Dataset:
    """A training set, a test set and what a model must know about them.

    image_shape: of one sample: [C, H, W] of an image, else any shape of at least one axis.
    num_classes: labels are 0 … num_classes - 1.
    dtype: of the samples.
    mean, std: per channel (see `channel_axis`) of the training samples; of x / 255 if they are uint8.
    cache: the folder that the samples are mapped from; None if they are not.
    identity: what data it is. notes: lines that its user should read.
    arrivals: where the samples came from, in their order, if they came in parts.
    """

    train: Source
    test: Source
    image_shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: torch.dtype = torch.uint8
    cache: Path | None = None
    identity: Identity = field(default_factory=Identity)
    notes: tuple[str, ...] = ()
    arrivals: tuple[Arrival, ...] = ()

    @property
    def sample_bytes(self) -> int:
        return math.prod(self.image_shape) * self.dtype.itemsize


def channel_axis(num_axes: int) -> int:
    """Which axis of a minibatch counts channels: the first of a sample that is an image ([C, H, W] and larger), else
    the last ([D], [T, C]).

    Args:
        num_axes: of the minibatch, such as 4 for images [B, C, H, W].
    """
    return 1 if num_axes >= 4 else num_axes - 1


def _describe(columns: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {column.dtype} {list(column.shape)}" for name, column in columns.items()) or "no columns"
