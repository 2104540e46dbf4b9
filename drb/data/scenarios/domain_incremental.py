"""Domain-incremental: the same classes in ever new guises, permuted pixels or rotated images.

Permuted: one pixel permutation per task, the same for all its images and channels (Goodfellow et al.,
arXiv 1312.6211). Rotated: one angle per task (GEM, arXiv 1706.08840). Every task has all samples, each
a new one with an id of its own (`drb.data.ids.in_guise`). Task 0 is the dataset as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import Task, check_fraction, hold_out
from drb.data.view import Transform
from drb.seeding import derive_seed, permutation
from drb.types import Int64Array


class DomainIncremental:
    """One transform per task, endlessly or for `num_tasks` tasks."""

    task_aware = False

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        validation: float = 0.0,
        transform: Literal["permuted", "rotated"] = "permuted",
        num_tasks: int | None = None,
        max_angle: float = 180.0,
    ) -> None:
        """
        Args:
            num_tasks: None for a stream without end.
            max_angle: rotated: each task's angle is uniform in [0, max_angle), in degrees.
            validation: share of the training samples held out, the same ones in every task.
        Raises:
            ValueError: an unknown transform, or a number that makes no stream.
        """
        if transform not in ("permuted", "rotated"):
            raise ValueError(f"transform must be permuted or rotated, got {transform!r}")
        if num_tasks is not None and num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, or none for an endless stream, got {num_tasks}")
        if not 0 < max_angle <= 360:
            raise ValueError(f"max_angle must be in (0, 360] degrees, got {max_angle}")
        self._dataset = dataset
        self._seed = seed
        self._validation = check_fraction(validation)
        self._name = transform
        self._num_tasks = num_tasks
        self._max_angle = max_angle

    def __iter__(self) -> Iterator[Task]:
        return map(self._task, itertools.count() if self._num_tasks is None else range(self._num_tasks))

    def _task(self, index: int) -> Task:
        source, transform = self._dataset.train, self._transform(index)
        # one split for all tasks: a held-out image must not be trained on in another guise
        train, held_out = hold_out(len(source), self._validation, self._seed, 0)
        return Task(
            index=index,
            name=f"{self._name} {index}",
            train=View(source, train, transform=transform, guise=index),
            test=View(self._dataset.test, np.arange(len(self._dataset.test)), transform=transform),
            validation=View(source, held_out, transform=transform, guise=index) if len(held_out) else None,
            classes=tuple(range(self._dataset.num_classes)),
        )

    def _transform(self, index: int) -> Transform | None:
        if index == 0:
            return None
        if self._name == "rotated":
            generator = np.random.default_rng(derive_seed(self._seed, "angle", index))
            return _Rotate(float(generator.uniform(0, self._max_angle)))
        _, height, width = self._dataset.image_shape
        return _Permute(permutation(height * width, self._seed, "pixels", index))


class _Permute:
    """Pixel i of every channel becomes what pixel order[i] was."""

    def __init__(self, order: Int64Array) -> None:
        self._order = torch.from_numpy(order)

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(2).index_select(2, self._order).view(images.shape)


class _Rotate:
    """Counter-clockwise about the centre, bilinear; what was outside is black."""

    def __init__(self, angle: float) -> None:
        self._angle = angle

    def __call__(self, images: Tensor) -> Tensor:
        from torchvision.transforms.functional import InterpolationMode, rotate

        rotated: Tensor = rotate(images, self._angle, InterpolationMode.BILINEAR)
        return rotated
