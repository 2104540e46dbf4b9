"""Datasets by name; every one gives raw uint8 images of one shape, labels and sample ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drb.datasets.builtin import cifar10, cifar100, digits, fashion_mnist, synthetic
from drb.datasets.folder import FolderSource, image_folder
from drb.datasets.source import Dataset, Source, TensorSource
from drb.datasets.view import Concat, View
from drb.registry import choose

__all__ = ["DATASETS", "Concat", "Dataset", "FolderSource", "Source", "TensorSource", "View", "load_dataset"]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "synthetic": synthetic,
}


def load_dataset(name: str, root: str | Path = "data", **options: Any) -> Dataset:
    """The dataset called `name`.

    Args:
        root: where files are looked for and downloaded to; digits and synthetic need none.
        options: keyword arguments of the dataset's function (see `DATASETS`).
    Raises:
        ValueError: an unknown name or option, or data that is not there.
    """
    return choose("dataset", DATASETS, name, options, given=("root",))(Path(root), **options)
