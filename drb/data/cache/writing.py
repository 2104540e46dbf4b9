"""Writing the files of a cache, each on the disk before whatever relies on it, with ordinary writes.

A full disk is then an error, where a mapped file would end the process with SIGBUS.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from drb.data.cache.files import (
    META,
    erased_file,
    erased_id_file,
    id_file,
    label_file,
    map_array,
    map_erased,
    open_cache,
)
from drb.data.source import Dataset, Source
from drb.types import BoolArray, Int64Array


def write_header(file: IO[bytes], dataset: Dataset, num_samples: int) -> None:
    """Write what an .npy file of so many of the dataset's samples begins with."""
    shape = (num_samples, *dataset.image_shape)
    header = {"descr": numpy_dtype(dataset).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_columns(partial: Path, split: str, source: Source) -> None:
    """Write the labels and the ids of a split."""
    for path, column in ((label_file(partial, split), source.labels), (id_file(partial, split), source.sample_ids)):
        with path.open("wb") as file:
            np.save(file, column)
            sync(file.fileno())


def write_meta(partial: Path, dataset: Dataset, facts: Mapping[str, Any]) -> None:
    """Write what the cache is, once all other files of it are there."""
    meta = {
        "facts": dict(facts),
        "image_shape": list(dataset.image_shape),
        "dtype": numpy_dtype(dataset).str,
        "num_classes": dataset.num_classes,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "identity": dataset.identity.to_json(),
        "files": {path.name: path.stat().st_size for path in sorted(partial.iterdir())},
    }
    with (partial / META).open("w") as file:
        json.dump(meta, file, indent=2)
        file.flush()
        sync(file.fileno())


def publish(partial: Path, folder: Path) -> None:
    """Give the cache its name, for good."""
    if _is_whole(folder):
        return  # another node was faster, on a file system whose locks are each node's own
    shutil.rmtree(folder, ignore_errors=True)  # one that is damaged
    partial.rename(folder)
    for path in (folder, folder.parent):
        sync_folder(path)


def _is_whole(folder: Path) -> bool:
    try:
        return open_cache(folder) is not None
    except ValueError:
        return False


def marks_of(folder: Path, split: str, ids: Int64Array, facts: Mapping[str, Any]) -> BoolArray:
    """Which samples were erased from an earlier cache of these, bool [n]; the file is made if it is not there.

    A folder that holds other samples now keeps the marks of those that it still holds.
    """
    path, ids_path = erased_file(folder, split), erased_id_file(folder, split)
    if not path.exists() or not (ids_path.exists() and np.array_equal(map_array(ids_path), ids)):
        path.parent.mkdir(exist_ok=True)
        earlier = _erased_before(folder, split, all_of_source="source" in facts)
        _save(ids_path, ids)
        _save(path, np.isin(ids, earlier))
        sync_folder(path.parent)
    return map_erased(folder, split, len(ids))


def _erased_before(folder: Path, split: str, *, all_of_source: bool) -> Int64Array:
    """Ids that were erased from this cache when it had other samples.

    all_of_source: also from other caches of the same data.
    """
    erased = [np.empty(0, np.int64)]
    pattern = f"{folder.name.rpartition('-')[0]}-*.erased" if all_of_source else f"{folder.name}.erased"
    for other in folder.parent.glob(pattern):
        cache = folder.with_name(other.name.removesuffix(".erased"))
        if erased_file(cache, split).exists() and erased_id_file(cache, split).exists():
            ids = map_array(erased_id_file(cache, split))
            erased.append(ids[map_erased(cache, split, len(ids))])
    return np.concatenate(erased)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        np.save(file, array)
        sync(file.fileno())
    unfinished.rename(path)


def numpy_dtype(dataset: Dataset) -> np.dtype[Any]:
    dtype: np.dtype[Any] = torch.empty(0, dtype=dataset.dtype).numpy().dtype
    return dtype


def sync(file: int) -> None:
    """Return once what was written to a file is on the disk."""
    os.fsync(file)


def sync_folder(path: Path) -> None:
    """Return once the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
