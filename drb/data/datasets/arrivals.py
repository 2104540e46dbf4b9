"""Samples that came one file after the other: a base, and what was new since."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drb.data.arrays import tensor_dataset
from drb.data.datasets.builder import DatasetBuilder
from drb.data.identity import Identity
from drb.data.source import Arrival, Dataset, TensorSource
from drb.options import setting
from drb.seeding import derive_seed

_ID_BITS = 40  # of a sample's position in its file


class Arrivals(DatasetBuilder):
    """Samples of several .npz files, one behind the other; each file is an arrival (scenario=arrivals, base_plus_new).

    A file has the arrays `image`, uint8 [n, C, H, W] or floats [n, …], and `label`, integers [n]; and, if it has test
    samples of its own, `test_image` and `test_label`. All samples are normalised as those of the first file, so that a
    network goes on with what it was trained for.

    files: paths, in the order of arrival. Files may be added at the end, and never removed.
    test_fraction: of a file without test samples, which are then the same in every run.
    """

    name = "arrivals"
    fields = ("image", "label")
    files: list[str] = setting([])
    test_fraction: float = setting(0.1, above=0, below=1)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        if not self.files:
            raise ValueError("dataset.files is empty: name at least one .npz file with the arrays image and label")
        parts = [self._load_file(Path(file)) for file in self.files]
        for file, part in zip(self.files, parts, strict=True):
            if (part.image_shape, part.dtype) != (parts[0].image_shape, parts[0].dtype):
                raise ValueError(
                    f"all files of dataset=arrivals must have samples of one kind: {self.files[0]} has "
                    f"{_kind(parts[0])}, and {file} has {_kind(part)}"
                )
        held: dict[str, int] = {}
        for number, part in enumerate(parts):
            first = held.setdefault(part.identity.parts["train"][1], number)
            if first != number:
                raise ValueError(
                    f"dataset.files has the same samples twice, as {self.files[first]} and as {self.files[number]}; "
                    "name them once"
                )
        names = [f"{number} {Path(file).name}" for number, file in enumerate(self.files, 1)]
        hashes = {
            f"{split}/{name}": part.identity.parts[split]
            for split in ("train", "test")
            for name, part in zip(names, parts, strict=True)
        }
        return Dataset(
            train=_joined([part.train for part in parts]),
            test=_joined([part.test for part in parts]),
            image_shape=parts[0].image_shape,
            num_classes=max(part.num_classes for part in parts),
            mean=parts[0].mean,
            std=parts[0].std,
            dtype=parts[0].dtype,
            identity=Identity(self.name, parts=hashes),
            arrivals=tuple(
                Arrival(file, len(part.train), len(part.test)) for file, part in zip(self.files, parts, strict=True)
            ),
        )

    def _load_file(self, file: Path) -> Dataset:
        arrays = read_arrays(file)
        for name in arrays.keys() & {"label", "test_label"}:
            if arrays[name].dtype.kind not in "iu":
                raise ValueError(
                    f"{name} of {file} must be integers, got {arrays[name].dtype}; number the classes from 0"
                )
        images, labels = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["label"])
        if not len(images):
            raise ValueError(f"{file} holds no samples: leave it out")
        if len(images) != len(labels):
            raise ValueError(f"{file} must have as many labels as images, got {len(labels)} and {len(images)}")
        if "test_image" in arrays:
            test = torch.from_numpy(arrays["test_image"]), torch.from_numpy(arrays["test_label"])
            train = images, labels
        else:
            train, test = _split(images, labels, self.test_fraction)
        return tensor_dataset(train, test, int(labels.max()) + 1, str(file))


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


def _joined(sources: Sequence[Any]) -> TensorSource:
    """The samples of all sources, with ids that tell the file and the position in it."""
    columns = {name: torch.cat([source.columns[name] for source in sources]) for name in ("image", "label")}
    ids = [(number << _ID_BITS) + torch.arange(len(source)) for number, source in enumerate(sources)]
    return TensorSource({**columns, "sample_id": torch.cat(ids)})


def _kind(dataset: Dataset) -> str:
    return f"{str(dataset.dtype).removeprefix('torch.')} {list(dataset.image_shape)}"
