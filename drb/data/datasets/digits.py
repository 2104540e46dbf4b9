"""scikit-learn's digits: 1797 grey images of 8x8, embedded in that package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from drb.data.arrays import tensor_dataset
from drb.data.datasets.builder import DatasetBuilder
from drb.data.source import Dataset
from drb.options import setting
from drb.seeding import derive_seed
from drb.types import BoolArray


class Digits(DatasetBuilder):
    """scikit-learn's 1797 grey images of 8x8 in 10 classes, embedded in the package.

    seed: of the test split, which has the same share of each class: the same whatever the run's seed.
    test_fraction: share of the images that are for testing.
    """

    name = "digits"
    fields = ("image", "label")
    seed: int = setting(0, at_least=0)
    test_fraction: float = setting(0.2, above=0, below=1)

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        table = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)
        images = torch.from_numpy(np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8))
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        is_test = torch.from_numpy(_stratified(table[:, -1], self.test_fraction, derive_seed(self.seed, "digits")))
        train, test = (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
        return tensor_dataset(train, test, 10, self.name)


def _file() -> Path:
    """Within scikit-learn, found without importing it: that takes 3 seconds, reading the file 10 ms."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ValueError("the dataset digits is part of scikit-learn, which is not installed: pip install scikit-learn")
    return Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


def _stratified(labels: npt.NDArray[np.uint8], fraction: float, seed: int) -> BoolArray:
    """Bool [n], True for a random `fraction` of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen[members[: round(fraction * len(members))]] = True
    return chosen
