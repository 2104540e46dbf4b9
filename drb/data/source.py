"""Where samples come from: fixed sets that are gathered by index, a minibatch at a time.

Images are raw (uint8, neither augmented nor normalised): that is what a rehearsal buffer stores, and a
rehearsed sample is augmented afresh. A source gathers whole minibatches; nothing is fetched one by one.

Shapes: n samples in the source, B rows of a minibatch, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drb.data.identity import Identity, hash_of_tensors
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
        """The samples at `indices`, int64 [B] in [0, n): `image` uint8 [B, C, H, W], `label` and `sample_id` int64 [B].

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
class Dataset:
    """A training set, a test set and what a model must know about them.

    mean and std are per channel, of x / 255 over the training images. cache is the folder that the images are mapped
    from, None if they are not. identity says what data it is; notes are lines that its user should read.
    """

    train: Source
    test: Source
    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cache: Path | None = None
    identity: Identity = field(default_factory=Identity)
    notes: tuple[str, ...] = ()


def tensor_dataset(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int | None = None, name: str = "unnamed"
) -> Dataset:
    """A dataset of (images uint8 [n, C, H, W], labels int64 [n]) pairs; sample ids count from 0 in each."""
    images, labels = train
    mean, std = channel_statistics(images)
    return Dataset(
        train=_with_ids(*train),
        test=_with_ids(*test),
        image_shape=(images.shape[1], images.shape[2], images.shape[3]),
        num_classes=int(labels.max()) + 1 if num_classes is None else num_classes,
        mean=mean,
        std=std,
        identity=Identity(name, parts={"train": _part(*train), "test": _part(*test)}),
    )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of x / 255 per channel, exact in float64, from uint8 [n, C, H, W].

    A channel that never changes gets the deviation 1, so that it can be divided by.
    """
    values = np.arange(256, dtype=np.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        # the 256 counts say everything about bytes, without a float copy of the images
        share = torch.bincount(channel.reshape(-1), minlength=256).numpy() / channel.numel()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(share @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def _with_ids(images: Tensor, labels: Tensor) -> TensorSource:
    return TensorSource({"image": images, "label": labels, "sample_id": torch.arange(len(labels))})


def _part(images: Tensor, labels: Tensor) -> tuple[int, str]:
    """The length and the hash of a split, as `Identity.parts` contains them."""
    return len(labels), hash_of_tensors(images, labels)


def _describe(columns: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {column.dtype} {list(column.shape)}" for name, column in columns.items()) or "no columns"
