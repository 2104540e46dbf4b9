"""Whether a data set can be what its user means, as far as labels and shapes say: no samples are read.

What cannot be right is refused before the first step, as a class-incremental stream would otherwise pass over samples
whose label is none of its classes; what may be meant is told in a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from drb.data.source import Dataset
from drb.types import Int64Array

_NAMED_AT_MOST = 5
_NUMBERED = "number the classes from 0, np.unique(labels, return_inverse=True)[1]"
_ALIKE = "leave them out, or number training and test labels alike"
_CHANNELS_LAST = (1, 3, 4)  # of an image whose axes are H, W, C: grey, RGB, RGB and alpha


def check_dataset(dataset: Dataset) -> None:
    """Check the labels of a data set, and that its images have their channels first.

    Raises:
        ValueError: labels outside [0, num_classes), test labels that no training sample has, or images [H, W, C].
    """
    name, num_classes = dataset.identity.source, dataset.num_classes
    advice = f"{_NUMBERED}, or give their number as num_classes"
    for split, source, then in (("training", dataset.train, advice), ("test", dataset.test, _ALIKE)):
        labels = np.asarray(source.labels)
        if (outside := (labels < 0) | (labels >= num_classes)).any():
            raise ValueError(
                f"{int(outside.sum())} of the {len(labels)} {split} samples of {name} have labels outside 0 … "
                f"{num_classes - 1} (num_classes={num_classes}): {_some(np.unique(labels[outside]))}; {then}"
            )
    unlearnt = (_counts(dataset.train.labels, num_classes) == 0)[dataset.test.labels]
    if unlearnt.any():
        labels = np.unique(dataset.test.labels[unlearnt])
        raise ValueError(
            f"{int(unlearnt.sum())} of the {len(dataset.test)} test samples of {name} have labels that no training "
            f"sample has: {_some(labels, dataset)}; {_ALIKE}"
        )
    if dataset.dtype == torch.uint8 and _has_channels_last(dataset.image_shape):
        raise ValueError(f"the images of {name} {_channels_first(dataset.image_shape)}")


def notes_on(dataset: Dataset) -> list[str]:
    """Lines that the user of a data set should read: what may be meant, but more often is a mistake."""
    name, notes = dataset.identity.source, []
    absent = np.flatnonzero(_counts(dataset.train.labels, dataset.num_classes) == 0)
    if len(absent):
        notes.append(
            f"no training sample of {name} has the label{'s' if len(absent) > 1 else ''} {_some(absent, dataset)} "
            f"({len(absent)} of {dataset.num_classes} classes): tasks and outputs count them all the same; unless they "
            f"are to come, {_NUMBERED}"
        )
    if dataset.dtype != torch.uint8 and _has_channels_last(dataset.image_shape):
        notes.append(f"if the samples of {name} are images, they {_channels_first(dataset.image_shape)}")
    return notes


def _counts(labels: Int64Array, num_classes: int) -> Int64Array:
    return np.bincount(labels, minlength=num_classes)


def _has_channels_last(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[2] in _CHANNELS_LAST and min(shape[:2]) > max(_CHANNELS_LAST)


def _channels_first(shape: Sequence[int]) -> str:
    return (
        f"must be [C, H, W], and {list(shape)} looks like [H, W, C]; move the channels in front, "
        "images.transpose(0, 3, 1, 2)"
    )


def _some(labels: Int64Array, dataset: Dataset | None = None) -> str:
    """The first few labels, by name where classes have names."""
    names: Sequence[Any] = () if dataset is None else dataset.identity.classes
    shown = [str(names[label]) if 0 <= label < len(names) else str(label) for label in labels[:_NAMED_AT_MOST].tolist()]
    return ", ".join(shown) + (", …" if len(labels) > _NAMED_AT_MOST else "")
