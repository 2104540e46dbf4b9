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
from typing import Any, Protocol

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


def tensor_dataset(
    train: tuple[Any, Any], test: tuple[Any, Any], num_classes: int | None = None, name: str = "unnamed"
) -> Dataset:
    """A dataset of (samples, labels) pairs, tensors or arrays; sample ids count from 0 in each.

    Args:
        train, test: uint8 images [n, C, H, W], or finite floats [n, …] of any shape, of which float64 and
            bfloat16 become float32; and their labels, integers [n].
        num_classes: one more than the largest training label if None.
    Raises:
        ValueError: samples or labels of another form, or NaN or infinite ones.
    """
    (samples, labels), (test_samples, test_labels) = (
        _checked(*pair, f"the {split} samples of {name}") for split, pair in (("training", train), ("test", test))
    )
    if (test_samples.dtype, test_samples.shape[1:]) != (samples.dtype, samples.shape[1:]):
        raise ValueError(
            f"the training and the test samples of {name} must be alike, got {_form(samples)} and {_form(test_samples)}"
        )
    mean, std = channel_statistics(samples)
    return Dataset(
        train=_with_ids(samples, labels),
        test=_with_ids(test_samples, test_labels),
        image_shape=tuple(samples.shape[1:]),
        num_classes=int(labels.max()) + 1 if num_classes is None else num_classes,
        mean=mean,
        std=std,
        dtype=samples.dtype,
        identity=Identity(name, parts={"train": _part(samples, labels), "test": _part(test_samples, test_labels)}),
    )


def channel_axis(num_axes: int) -> int:
    """Which axis of a minibatch counts channels: the first of a sample that is an image ([C, H, W] and larger), else
    the last ([D], [T, C]).

    Args:
        num_axes: of the minibatch, such as 4 for images [B, C, H, W].
    """
    return 1 if num_axes >= 4 else num_axes - 1


def channel_statistics(samples: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in float64, from uint8 or floats [n, …]; of x / 255 if uint8.

    A channel that never changes gets the deviation 1, so that it can be divided by.
    """
    moments = [
        _moments_of_bytes(channel) if samples.dtype == torch.uint8 else _moments_of_floats(channel)
        for channel in samples.unbind(channel_axis(samples.dim()))
    ]
    return tuple(mean for mean, _ in moments), tuple(deviation or 1.0 for _, deviation in moments)


def _moments_of_bytes(channel: Tensor) -> tuple[float, float]:
    """Exact: the 256 counts say everything about bytes, without a float copy of the images."""
    values = np.arange(256, dtype=np.float64) / 255
    share = torch.bincount(channel.reshape(-1), minlength=256).numpy() / channel.numel()
    mean = float(share @ values)
    return mean, float(np.sqrt(share @ (values - mean) ** 2))


def _moments_of_floats(channel: Tensor) -> tuple[float, float]:
    values = channel.double()
    is_constant = bool((values == values.reshape(-1)[0]).all())  # whose deviation rounding would make a little of
    return float(values.mean()), 0.0 if is_constant else float(values.std(correction=0))


def _checked(samples: Any, labels: Any, which: str) -> tuple[Tensor, Tensor]:
    """Samples and labels as the tensors that a source holds."""
    samples, labels = torch.as_tensor(samples), torch.as_tensor(labels)
    samples = samples.float() if samples.dtype in (torch.float64, torch.bfloat16) else samples
    if not (samples.dtype == torch.uint8 or samples.is_floating_point()) or samples.dim() < 2 or not samples.numel():
        raise ValueError(f"{which} must be uint8 images [n, C, H, W] or floats [n, …], got {_form(samples)}")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != samples.shape[:1]:
        raise ValueError(f"the labels of {which} must be integers [{len(samples)}], got {_form(labels)}")
    if samples.is_floating_point():
        odd = ~torch.isfinite(samples)
        if odd.any():
            first = int(odd.flatten(1).any(dim=1).nonzero()[0])
            raise ValueError(
                f"{which} hold {int(odd.sum())} values that are NaN or infinite, the first in sample {first}; replace "
                "or leave them out"
            )
    return samples, labels.long()


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _with_ids(samples: Tensor, labels: Tensor) -> TensorSource:
    return TensorSource({"image": samples, "label": labels, "sample_id": torch.arange(len(labels))})


def _part(samples: Tensor, labels: Tensor) -> tuple[int, str]:
    """The length and the hash of a split, as `Identity.parts` contains them."""
    return len(labels), hash_of_tensors(samples, labels)


def _describe(columns: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {column.dtype} {list(column.shape)}" for name, column in columns.items()) or "no columns"
