"""Datasets by name; every one gives raw uint8 images of one shape, labels and sample ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drb.data.cache import CacheSettings
from drb.data.datasets.builtin import cifar10, cifar100, digits, fashion_mnist, synthetic
from drb.data.datasets.cached import load_cached
from drb.data.datasets.folder import FolderSource, image_folder
from drb.data.mapped import MappedSource
from drb.data.source import Dataset, Source, TensorSource
from drb.data.view import Concat, View, erased_rows, is_mapped
from drb.options import choose

__all__ = [
    "DATASETS",
    "CacheSettings",
    "Concat",
    "Dataset",
    "FolderSource",
    "MappedSource",
    "Source",
    "TensorSource",
    "View",
    "erased_rows",
    "is_mapped",
    "load_dataset",
]


DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "synthetic": synthetic,
}


def load_dataset(
    name: str,
    root: str | Path = "data",
    *,
    cache: CacheSettings | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Dataset:
    """The dataset called `name`.

    Args:
        root: where files are looked for and downloaded to; digits and synthetic need none.
        cache: keep the decoded images in a file that all processes of a node map; None: each has its own.
        say: told, in lines, what a cache's making takes and what is odd about the data.
        options: keyword arguments of the dataset's function (see `DATASETS`).
    Raises:
        ValueError: an unknown name or option, or data that is not there or cannot be read.
    """
    load = choose("dataset", DATASETS, name, options, given=("root",))
    root = Path(root)
    if cache is None or cache.mode == "never":
        dataset = load(root, **options)
    else:
        dataset = load_cached(name, root, load, options, cache, say)
    for note in dataset.notes:
        say(note)
    return dataset
