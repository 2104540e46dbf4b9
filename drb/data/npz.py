"""Labelled samples in an .npz file: its arrays, checked, and the data set that they make."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.data.arrays import tensor_dataset
from drb.data.source import Dataset
from drb.seeding import derive_seed


def npz_dataset(file: Path, test_fraction: float) -> Dataset:
    """The data set of the arrays `image`, uint8 [n, C, H, W] or floats [n, …], and `label`, integers [n].

    Test samples are `test_image` and `test_label`; without them a part is held out, the same in every run.

    Args:
        test_fraction: how much is held out.
    Raises:
        ValueError: a file that cannot be read, or arrays of another form.
    """
    arrays = read_arrays(file)
    for name in arrays.keys() & {"label", "test_label"}:
        if arrays[name].dtype.kind not in "iu":
            raise ValueError(f"{name} of {file} must be integers, got {arrays[name].dtype}; number the classes from 0")
    images, labels = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["label"])
    if not len(images):
        raise ValueError(f"{file} holds no samples: leave it out")
    if len(images) != len(labels):
        raise ValueError(f"{file} must have as many labels as images, got {len(labels)} and {len(images)}")
    if "test_image" in arrays:
        test = torch.from_numpy(arrays["test_image"]), torch.from_numpy(arrays["test_label"])
        train = images, labels
    else:
        train, test = _split(images, labels, test_fraction)
    return tensor_dataset(train, test, int(labels.max()) + 1, str(file))


def npz_samples(file: Path) -> Dataset:
    """All samples of `image` and `label`, as training and as test samples.

    Raises:
        ValueError: as `npz_dataset`.
    """
    arrays = read_arrays(file)
    samples = arrays["image"], arrays["label"]
    return tensor_dataset(samples, samples, name=str(file))


def read_arrays(file: Path) -> Mapping[str, Any]:
    """The arrays of an .npz file; nothing in it is unpickled.

    Raises:
        ValueError: it cannot be read, or lacks an array.
    """
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else f"it is no whole .npz file ({error})"
        )
        raise ValueError(f"the data {file} cannot be read: {reason}") from error
    pairs = [("image", "label")] + (
        [("test_image", "test_label")] if arrays.keys() & {"test_image", "test_label"} else []
    )
    for name in (name for pair in pairs for name in pair):
        if name not in arrays:
            raise ValueError(f"the data {file} has no array {name!r}, it has {', '.join(sorted(arrays)) or 'none'}")
    return arrays


def _split(images: Tensor, labels: Tensor, fraction: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test samples, the same in every run; each class that is tested is trained, if that leaves a test."""
    if len(labels) < 2:
        raise ValueError("a file of one sample cannot be divided into training and test samples; give it test samples")
    order = np.random.Generator(np.random.Philox(key=derive_seed(0, "test split"))).permutation(len(labels))
    count = min(max(1, round(fraction * len(labels))), len(labels) - 1)
    is_test = np.arange(len(order)) < count
    _, last = np.unique(labels.numpy()[order][::-1], return_index=True)
    rest = is_test.copy()
    rest[len(order) - 1 - last] = False  # the last of each class, which is in the training part of all but rare ones
    is_test = rest if rest.any() else is_test
    test, train = (torch.from_numpy(np.sort(order[part])) for part in (is_test, ~is_test))
    return (images[train], labels[train]), (images[test], labels[test])
