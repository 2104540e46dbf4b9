"""Domain-incremental: the same classes in ever new guises, permuted pixels or rotated images.

Permuted: one pixel permutation per task, the same for all its images and channels (Goodfellow et al.,
arXiv 1312.6211). Rotated: one angle per task (GEM, arXiv 1706.08840). Every task has all samples, each
a new one with an id of its own (`drb.data.ids.in_guise`). Task 0 is the dataset as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from drb.data.datasets import Dataset, View
from drb.data.scenarios.task import Scenario, Task, hold_out
from drb.data.view import Transform
from drb.options import setting
from drb.seeding import derive_seed, permutation
from drb.types import Int64Array


class DomainIncremental(Scenario):
    """Bring the same classes in ever new guises: permuted pixels or rotated images, one transform per task.

    num_tasks: None makes an endless stream.
    max_angle: rotated: each task's angle is uniform in [0, max_angle), in degrees.
    validation: the same samples are held out in every task.
    """

    name = "domain_incremental"
    transform: str = setting("permuted", one_of=("permuted", "rotated"))
    num_tasks: int | None = setting(None, at_least=1)
    max_angle: float = setting(180.0, above=0, at_most=360)

    keeps_earlier_tasks = True

    def begin(self, dataset: Dataset, seed: int) -> None:
        super().begin(dataset, seed)
        if self.transform == "rotated" and len(dataset.image_shape) != 3:
            raise ValueError(
                "scenario.transform=rotated turns images [C, H, W], and these samples have the shape "
                f"{list(dataset.image_shape)}; write scenario.transform=permuted"
            )

    def __iter__(self) -> Iterator[Task]:
        return map(self._task, itertools.count() if self.num_tasks is None else range(self.num_tasks))

    def _task(self, index: int) -> Task:
        source, transform = self.dataset.train, self._transform_of(index)
        # one split for all tasks: a held-out image must not be trained on in another guise
        train, held_out = hold_out(len(source), self.validation, self.seed, 0)
        return Task(
            index=index,
            name=f"{self.transform} {index + 1}",
            train=View(source, train, transform=transform, guise=index),
            test=View(self.dataset.test, np.arange(len(self.dataset.test)), transform=transform),
            validation=View(source, held_out, transform=transform, guise=index) if len(held_out) else None,
            classes=tuple(range(self.dataset.num_classes)),
        )

    def _transform_of(self, index: int) -> Transform | None:
        if index == 0:
            return None
        if self.transform == "rotated":
            generator = np.random.default_rng(derive_seed(self.seed, "angle", index))
            return _Rotate(float(generator.uniform(0, self.max_angle)))
        shape = self.dataset.image_shape
        positions = math.prod(shape[1:] if len(shape) == 3 else shape)
        return _Permute(permutation(positions, self.seed, "pixels", index))


class _Permute:
    """Pixel i of every channel (or value i of a sample that is no image) becomes what pixel order[i] was."""

    def __init__(self, order: Int64Array) -> None:
        self._order = torch.from_numpy(order)

    def __call__(self, images: Tensor) -> Tensor:
        axis = 2 if images.dim() == 4 else 1
        return images.flatten(axis).index_select(axis, self._order).view(images.shape)


class _Rotate:
    """Counter-clockwise about the centre, bilinear; what was outside is black."""

    def __init__(self, angle: float) -> None:
        self._angle = angle

    def __call__(self, images: Tensor) -> Tensor:
        from torchvision.transforms.functional import InterpolationMode, rotate

        rotated: Tensor = rotate(images, self._angle, InterpolationMode.BILINEAR)
        return rotated
