"""Data sets made of arrays or tensors that lie in memory: what their user gives is checked and brought into one form.

Shapes: n samples of a split, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.data.identity import Identity, hash_of_tensors
from drb.data.source import Dataset, Source, TensorSource, channel_axis

_LOOKED_AT = 10_000
_KINDS = {"b": "booleans", "U": "strings", "S": "strings", "M": "dates", "m": "durations", "c": "complex numbers"}


def tensor_dataset(
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    num_classes: int | None = None,
    name: str = "unnamed",
    *,
    targets: tuple[Any, Any] | None = None,
) -> Dataset:
    """A dataset of (samples, labels) pairs, tensors or arrays; sample ids count from 0 in each.

    Args:
        train, test: uint8 images [n, C, H, W], or finite floats [n, …] of any shape, of which float64 and
            bfloat16 become float32; and their labels, integers [n]. With `targets` the labels may be None: all are 0.
        num_classes: one more than the largest training label if None.
        targets: numbers to learn, of the training and of the test samples, each [n] or [n, …]. They become the field
            `target`, float32, which objective=regression learns.
    Raises:
        ValueError: samples, labels or targets of another form, or NaN or infinite ones.
    """
    columns = [
        _columns(pair, target, split, name, labels_may_miss=targets is not None)
        for split, pair, target in zip(("training", "test"), (train, test), targets or (None, None), strict=True)
    ]
    for field in columns[0].keys() - {"label", "sample_id"}:
        here, there = (split[field] for split in columns)
        if (here.dtype, here.shape[1:]) != (there.dtype, there.shape[1:]):
            what = "samples" if field == "image" else f"{field}s"
            raise ValueError(
                f"the training and the test {what} of {name} must be alike, got {_form(here)} and {_form(there)}"
            )
    samples, labels = columns[0]["image"], columns[0]["label"]
    mean, std = channel_statistics(samples)
    return Dataset(
        train=TensorSource(columns[0]),
        test=TensorSource(columns[1]),
        image_shape=tuple(samples.shape[1:]),
        num_classes=int(labels.max()) + 1 if num_classes is None else num_classes,
        mean=mean,
        std=std,
        dtype=samples.dtype,
        identity=Identity(name, parts={split: _part(c) for split, c in zip(("train", "test"), columns, strict=True)}),
    )


def channel_statistics(samples: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in float64, from uint8 or floats [n, …]; of x / 255 if uint8.

    A channel that never changes gets the deviation 1, so that it can be divided by.
    """
    moments = [
        _moments_of_bytes(channel) if samples.dtype == torch.uint8 else _moments_of_floats(channel)
        for channel in samples.unbind(channel_axis(samples.dim()))
    ]
    return tuple(mean for mean, _ in moments), tuple(deviation or 1.0 for _, deviation in moments)


def statistics_of_some(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The `channel_statistics` of at most 10,000 samples of a source, evenly spaced."""
    some = np.unique(np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).astype(np.int64))
    return channel_statistics(source.gather(some)["image"])


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


def _columns(pair: tuple[Any, Any], target: Any, split: str, name: str, *, labels_may_miss: bool) -> dict[str, Tensor]:
    """The columns of a split as a source holds them."""
    which = f"the {split} samples of {name}"
    samples = _samples(pair[0], which)
    labels = torch.zeros(len(samples), dtype=torch.int64)
    if pair[1] is not None or not labels_may_miss:
        labels = _labels(pair[1], len(samples), which)
    columns = {"image": samples, "label": labels, "sample_id": torch.arange(len(labels))}
    return columns if target is None else {**columns, "target": _targets(target, len(samples), which)}


def _samples(given: Any, which: str) -> Tensor:
    samples = _tensor(given, f"{which} must be uint8 images [n, C, H, W] or floats [n, …]")
    samples = samples.float() if samples.dtype in (torch.float64, torch.bfloat16) else samples
    if samples.dim() and not len(samples):
        raise ValueError(f"there are no {which.removeprefix('the ')}, got {_form(samples)}: a dataset needs some")
    if not (samples.dtype == torch.uint8 or samples.is_floating_point()) or samples.dim() < 2 or not samples.numel():
        raise ValueError(f"{which} must be uint8 images [n, C, H, W] or floats [n, …], got {_form(samples)}")
    _require_finite(samples, which)
    return samples


def _labels(given: Any, count: int, which: str) -> Tensor:
    expected = f"the labels of {which} must be integers [{count}]"
    labels = _tensor(given, expected)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (count,):
        hint = "; numbers to learn by regression are given as targets=(training, test)"
        raise ValueError(f"{expected}, got {_form(labels)}{hint if labels.is_floating_point() else ''}")
    return labels.long()


def _targets(given: Any, count: int, which: str) -> Tensor:
    expected = f"the targets of {which} must be numbers [{count}, …]"
    targets = _tensor(given, expected)
    if not targets.dim() or len(targets) != count or not targets.numel():
        raise ValueError(f"{expected}, got {_form(targets)}")
    targets = targets.float()
    _require_finite(targets, f"the targets of {which}")
    return targets


def _tensor(given: Any, expected: str) -> Tensor:
    """A tensor of whatever NumPy makes an array of: lists, tables' columns, arrays of any byte order and strides."""
    if isinstance(given, Tensor):
        return given
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"{expected}, got {type(given).__name__} that is no array ({error})") from None
    if array.dtype.kind not in "biuf":
        kind = _KINDS.get(array.dtype.kind, "objects")
        hint = ": number them, np.unique(labels, return_inverse=True)[1]" if kind == "strings" else ""
        raise ValueError(f"{expected}, got {kind} ({array.dtype} {list(array.shape)}){hint}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array = array.copy() if min(array.strides, default=0) < 0 else array  # which torch has no strides for
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing writes into it
        return torch.from_numpy(array)


def _require_finite(values: Tensor, which: str) -> None:
    if values.is_floating_point() and (odd := ~torch.isfinite(values)).any():
        first = int(odd.reshape(len(odd), -1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"{which} hold {int(odd.sum())} values that are NaN or infinite, the first in sample {first}; replace "
            "or leave them out"
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _part(columns: Mapping[str, Tensor]) -> tuple[int, str]:
    """The length and the hash of a split, as `Identity.parts` contains them."""
    known = [columns[name] for name in ("image", "label", "target") if name in columns]
    return len(columns["label"]), hash_of_tensors(*known)
