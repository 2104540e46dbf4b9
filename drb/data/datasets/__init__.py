"""Data sets: raw uint8 images of one shape, labels and sample ids.

To add one, derive a class from `DatasetBuilder`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drb.data.cache import CacheSettings
from drb.data.datasets.builder import DatasetBuilder
from drb.data.datasets.builtin import cifar10, cifar100, digits, fashion_mnist, synthetic
from drb.data.datasets.cached import load_cached
from drb.data.datasets.folder import FolderSource, image_folder
from drb.data.mapped import MappedSource
from drb.data.source import Dataset, Source, TensorSource
from drb.data.view import Concat, View, erased_rows, is_mapped
from drb.options import choose
from drb.registry import Registry

__all__ = [
    "DATASETS",
    "CacheSettings",
    "Concat",
    "Dataset",
    "DatasetBuilder",
    "FolderSource",
    "MappedSource",
    "Source",
    "TensorSource",
    "View",
    "erased_rows",
    "is_mapped",
    "load_dataset",
]


LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "synthetic": synthetic,
}


DATASETS: Registry[DatasetBuilder] = Registry("dataset", DatasetBuilder, __name__, "drb.datasets")


def load_dataset(
    name: str,
    root: str | Path = "data",
    *,
    cache: CacheSettings | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Dataset:
    """One of drb's own data sets, called `name`.

    Args:
        root: where files are looked for and downloaded to; digits and synthetic need none.
        cache: keep the decoded images in a file that all processes of a node map; None: each has its own.
        say: told, in lines, what a cache's making takes and what is odd about the data.
        options: keyword arguments of the dataset's function (see `LOADERS`).
    Raises:
        ValueError: an unknown name or option, or data that is not there or cannot be read.
    """
    load = choose("dataset", LOADERS, name, options, given=("root",))
    root = Path(root)
    if cache is None or cache.mode == "never":
        dataset = load(root, **options)
    else:
        dataset = load_cached(name, root, load, options, cache, say)
    for note in dataset.notes:
        say(note)
    return dataset
