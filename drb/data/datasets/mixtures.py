"""Synthetic images of several patterns at once, for multi-label classification and regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from drb.data.datasets.builder import DatasetBuilder
from drb.data.datasets.columns import dataset_of_columns
from drb.data.source import Dataset
from drb.options import setting
from drb.seeding import derive_seed


class Mixtures(DatasetBuilder):
    """Images [1, S, S] that are weighted sums of some of K random patterns, with noise.

    `present`, uint8 [K], says which patterns are in an image (objective=multilabel), and `strength`, float32 [K], how
    strongly each is (objective=regression with objective.target=strength). The label is the strongest pattern. Others
    are among the two before and the two behind it, so that class-incremental streams bring new patterns and lose sight
    of old ones.

    num_patterns:  K
    size:          S
    share_present: the probability of each of the other patterns that may be there
    """

    name = "mixtures"
    num_patterns: int = setting(8, at_least=2)
    size: int = setting(8, at_least=2)
    share_present: float = setting(0.4, at_least=0, below=1)
    noise: float = setting(0.1, at_least=0)
    num_train: int = setting(4000, at_least=1)
    num_test: int = setting(800, at_least=1)
    seed: int = setting(0, at_least=0)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        generator = np.random.default_rng(derive_seed(self.seed, "mixtures"))
        patterns = generator.normal(size=(self.num_patterns, self.size * self.size))
        train, test = (self._columns(patterns, count, generator) for count in (self.num_train, self.num_test))
        return dataset_of_columns(self.name, train, test, input_field="image", num_classes=self.num_patterns)

    def _columns(self, patterns: np.ndarray, count: int, generator: np.random.Generator) -> dict[str, Tensor]:
        labels = np.arange(count) % self.num_patterns
        distance = np.abs(np.arange(self.num_patterns) - labels[:, None])
        is_near = np.minimum(distance, self.num_patterns - distance) <= 2
        present = is_near & (generator.random(is_near.shape) < self.share_present)
        strength = generator.uniform(0.3, 0.8, present.shape) * present
        strength[np.arange(count), labels] = generator.uniform(0.8, 1.2, count)
        images = strength @ patterns + self.noise * generator.normal(size=(count, patterns.shape[1]))
        return {
            "image": torch.from_numpy(images.astype(np.float32).reshape(-1, 1, self.size, self.size)),
            "label": torch.from_numpy(labels.astype(np.int64)),
            "present": torch.from_numpy((strength > 0).astype(np.uint8)),
            "strength": torch.from_numpy(strength.astype(np.float32)),
        }
