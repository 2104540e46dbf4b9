"""ImageFolder: ROOT/train/<class>/*, ROOT/val or ROOT/test the same; decoded when gathered.

Images become RGB, their shorter side is resized to `resize` and the centre cropped to `image_size`: a rehearsal buffer
needs one shape, and random augmentation follows on the device. What fits is decoded once (`cache/`); what does not is
decoded by processes of its own (`decoders.py`), ahead of training.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from drb.data.datasets.decode_pool import DecoderPool
from drb.data.source import Dataset
from drb.machine import usable_cores
from drb.types import Int64Array, Minibatch

# every user of pretrained weights normalises with these, the statistics of ImageNet
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class FolderSource:
    """Image files, decoded on each gather by the processes of a pool that a dataset's sources share."""

    in_memory = False

    def __init__(
        self,
        folder: Path,
        names: npt.NDArray[np.bytes_],
        labels: Int64Array,
        sample_ids: Int64Array,
        *,
        image_size: int,
        decoders: DecoderPool,
    ) -> None:
        """names: paths below `folder`, bytes [n]: a million of them take 40 MB, as Path objects ten times that."""
        self._folder = folder
        self._names = names
        self._labels = labels
        self._sample_ids = sample_ids
        self._image_size = image_size
        self._decoders = decoders

    @property
    def labels(self) -> Int64Array:
        return self._labels

    @property
    def sample_ids(self) -> Int64Array:
        return self._sample_ids

    @property
    def names(self) -> Iterator[str]:
        """The files' paths below the dataset's root."""
        return (os.path.join(self._folder.name, os.fsdecode(name)) for name in self._names)

    def __len__(self) -> int:
        return len(self._names)

    def gather(self, indices: Int64Array) -> Minibatch:
        """As `Source.gather`. Thread-safe.

        Raises:
            ValueError: a file cannot be decoded; the message names it.
        """
        images = np.empty((len(indices), 3, self._image_size, self._image_size), np.uint8)
        self._decoders.decode([os.path.join(self._folder, os.fsdecode(n)) for n in self._names[indices]], images)
        return {
            "image": torch.from_numpy(images),
            "label": torch.from_numpy(self._labels[indices]),
            "sample_id": torch.from_numpy(self._sample_ids[indices]),
        }

    def subset(self, indices: Int64Array) -> FolderSource:
        return FolderSource(
            self._folder,
            self._names[indices],
            self._labels[indices],
            self._sample_ids[indices],
            image_size=self._image_size,
            decoders=self._decoders,
        )


def image_folder(root: Path, *, image_size: int = 224, resize: int | None = None, workers: int = 4) -> Dataset:
    """ROOT/train and ROOT/val (or ROOT/test), one folder per class.

    Args:
        image_size: height and width of the images, in pixels.
        resize: length of the shorter side before the crop; image_size if None.
        workers: decoding processes per rank, at most one per core that the rank may use.
    Raises:
        ValueError: folders that are missing, empty or disagree, or sizes that do not fit.
    """
    resize = image_size if resize is None else resize
    if not 0 < image_size <= resize:
        raise ValueError(f"image_folder needs 0 < image_size <= resize, got image_size={image_size}, resize={resize}")
    if workers < 1:
        raise ValueError(f"image_folder needs at least one worker, got workers={workers}")
    train, test = _split_folder(root, "train"), _split_folder(root, "val", "test")
    classes = _class_names(train)
    if _class_names(test) != classes:
        differing = sorted(set(classes) ^ set(_class_names(test)))
        raise ValueError(f"{train} and {test} must have the same class folders; only one has {differing[:5]}")
    decoders = DecoderPool(min(workers, len(usable_cores())), resize=resize, image_size=image_size)
    return Dataset(
        train=_scan(train, classes, image_size, decoders),
        test=_scan(test, classes, image_size, decoders),
        image_shape=(3, image_size, image_size),
        num_classes=len(classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _scan(folder: Path, classes: list[str], image_size: int, decoders: DecoderPool) -> FolderSource:
    files = [_image_names(folder, name) for name in classes]
    for name, found in zip(classes, files, strict=True):
        if not found:
            raise ValueError(f"the class folder {folder / name} has no image file ({', '.join(_SUFFIXES)})")
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in files])
    names = np.array([name for found in files for name in found])
    return FolderSource(folder, names, labels, np.arange(len(names)), image_size=image_size, decoders=decoders)


def _image_names(folder: Path, class_name: str) -> list[bytes]:
    """Paths below `folder` of the class's image files, at any depth, sorted; links are followed."""
    names: list[bytes] = []
    for parent, _, files in os.walk(folder / class_name, followlinks=True):
        below = os.path.relpath(parent, folder)
        names += [os.fsencode(os.path.join(below, name)) for name in files if name.lower().endswith(_SUFFIXES)]
    return sorted(names)


def _split_folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"image_folder needs a folder {' or '.join(str(root / name) for name in names)}; set root")


def _class_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise ValueError(f"{folder} has no class folders; put the images of each class into a folder of its own")
    return names
