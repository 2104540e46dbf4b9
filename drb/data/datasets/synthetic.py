"""Images made of noise, for speed tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.data.arrays import tensor_dataset
from drb.data.datasets.builder import CachedDataset
from drb.data.source import Dataset
from drb.options import setting
from drb.seeding import derive_seed

_SMALL_BYTES = 64 << 20  # made in less time than a file is opened


class Synthetic(CachedDataset):
    """Noise of any size around one random pattern per class: for speed tests, yet learnable.

    image_shape: channels, height and width.
    seed: of patterns and noise.
    """

    name = "synthetic"
    fields = ("image", "label")
    image_shape: list[int] = setting([3, 32, 32], at_least=1)
    num_classes: int = setting(10, at_least=1)
    num_train: int = setting(10_000, at_least=1)
    num_test: int = setting(1_000, at_least=1)
    seed: int = setting(0, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_shape) != 3:
            raise ValueError(f"synthetic.image_shape must be [C, H, W], got {list(self.image_shape)}")

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        is_small = (self.num_train + self.num_test) * math.prod(self.image_shape) <= _SMALL_BYTES
        return self._make() if is_small and self.cache == "auto" else self.cached(self._make, {}, say)

    def _make(self) -> Dataset:
        generator = np.random.default_rng(derive_seed(self.seed, "synthetic"))
        patterns = generator.integers(0, 128, (self.num_classes, *self.image_shape), dtype=np.uint8)
        train, test = (_noisy(patterns, count, generator) for count in (self.num_train, self.num_test))
        return tensor_dataset(train, test, self.num_classes, self.name)


def _noisy(patterns: npt.NDArray[np.uint8], count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    labels = np.arange(count) % len(patterns)
    images = np.empty((count, *patterns.shape[1:]), np.uint8)
    for at in range(0, count, 1024):  # in blocks, so that a set that just fits is made in place
        block = images[at : at + 1024]
        block[:] = patterns[labels[at : at + 1024]]
        block += generator.integers(0, 128, block.shape, dtype=np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels)
