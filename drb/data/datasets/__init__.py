"""Data sets: samples of one shape, labels and sample ids. One builder per file.

To add one, derive a class from `DatasetBuilder`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drb.data.arrays import tensor_dataset
from drb.data.cache import CacheSettings
from drb.data.datasets.builder import CachedDataset, DatasetBuilder
from drb.data.datasets.image_folder import FolderSource
from drb.data.mapped import MappedSource
from drb.data.source import Dataset, Source, TensorSource
from drb.data.view import Concat, View, erased_rows, is_mapped
from drb.registry import Registry

__all__ = [
    "DATASETS",
    "CacheSettings",
    "CachedDataset",
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
    "tensor_dataset",
]

DATASETS: Registry[DatasetBuilder] = Registry("dataset", DatasetBuilder, __name__, "drb.datasets")


def load_dataset(
    name: str,
    root: str | Path = "data",
    *,
    cache: CacheSettings | None = None,
    say: Callable[[str], None] = lambda line: None,
    known_classes: Sequence[str] = (),
    **options: Any,
) -> Dataset:
    """The data set called `name`.

    Args:
        root: where files are looked for and downloaded to; digits and synthetic need none.
        cache: keep the decoded images in a file that all processes of a node map; None: each has its own.
        say: told, in lines, what a cache's making takes and what is odd about the data.
        known_classes: as for `DatasetBuilder.load`.
        options: of the data set.
    Raises:
        ValueError: an unknown name or option, or data that is not there or cannot be read.
    """
    if issubclass(DATASETS.find(name), CachedDataset):
        options = {**_cache_options(cache), **options}
    return DATASETS.build(name, {"root": str(root), **options}).load(say, known_classes)


def _cache_options(settings: CacheSettings | None) -> dict[str, Any]:
    if settings is None:
        return {"cache": "never"}
    folder = None if settings.folder is None else str(settings.folder)
    return {"cache": settings.mode, "cache_dir": folder, "cache_limit": f"{settings.limit_bytes}B"}
