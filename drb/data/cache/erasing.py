"""Removing samples from a cache, for good.

The rows become zeros on the disk and are marked first, in a file beside the cache that a rebuilt cache obeys, too.
Marked rows are never given out as data: a loader shows another sample of the same rank in their place (so owners, the
epoch's length and the other ids stay as they are and a stopped run can go on), an evaluation leaves them out, and a run
that has the cache open gets an error when it comes to one. Labels stay: they say how long a task is.

Only the cache is changed, neither the files that it was made from nor what a device keeps of overwritten blocks.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from drb.data.cache.files import SPLITS, id_file, image_file, map_array, map_erased, read_meta
from drb.data.cache.run_file import read_run_file
from drb.data.ids import in_guise
from drb.types import Int64Array

_GUISES = 10_000  # that a sample is looked for in: tasks of a domain-incremental stream
_OF_A_RUN = "config.yaml"  # in every run directory


def erase(folder: Path, sample_ids: Sequence[int] | Int64Array, split: str = "train", *, dry_run: bool = False) -> int:
    """Erase samples; a repetition does no harm and finishes what was interrupted.

    Args:
        folder: a cache (`Dataset.cache`), or the directory of a run: the cache that it read, if any.
        sample_ids: ids as the run has them, of a sample in any of its guises (domain-incremental). Those that are not
            in the cache are passed over.
        dry_run: erase nothing.
    Returns:
        How many had not been erased before, and are (or would be) now.
    Raises:
        ValueError: neither a cache nor a run, a damaged cache, or an id below 0.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be train or test, got {split!r}")
    cache = _cache_of(Path(folder))
    if cache is None:
        return 0
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody builds it now
        mode: Literal["r", "r+"] = "r" if dry_run else "r+"
        images = map_array(image_file(cache, split), mode)
        erased = map_erased(cache, split, len(images), mode)
        ids = np.asarray(sample_ids, np.int64).reshape(-1)
        if len(ids) and ids.min() < 0:
            raise ValueError(f"sample ids to erase must be at least 0, got {ids.min()}")
        rows = _rows_of(ids, map_array(id_file(cache, split)))
        num_new = int(np.count_nonzero(~erased[rows]))
        if dry_run:
            return num_new
        for array, value in ((erased, True), (images, 0)):  # marks first: a row is never blank without its mark
            array[rows] = value
            _write_back(array)
        return num_new


def erased_ids(folder: Path, split: str = "train") -> Int64Array:
    """The samples that were erased from a cache, or that of a run, int64, ascending."""
    cache = _cache_of(Path(folder))
    if cache is None:
        return np.empty(0, np.int64)
    ids = map_array(id_file(cache, split))
    return np.sort(ids[map_erased(cache, split, len(ids))])


def _rows_of(sample_ids: Int64Array, all_ids: Int64Array) -> Int64Array:
    """The rows of these samples, int64, ascending and distinct."""
    order, found, left = np.argsort(all_ids), [np.empty(0, np.int64)], sample_ids
    for guise in range(_GUISES if len(all_ids) else 0):
        if not len(left):
            break
        ids = in_guise(left, guise)
        at = np.searchsorted(all_ids, ids, sorter=order).clip(0, len(order) - 1)
        is_there = all_ids[order[at]] == ids
        found.append(order[at[is_there]])
        left = left[~is_there]
    return np.unique(np.concatenate(found))


def _cache_of(folder: Path) -> Path | None:
    """The cache itself, or the run's; None if the run had none, or it has been deleted.

    Raises:
        ValueError: neither a cache nor a run, or a damaged cache.
    """
    note = read_run_file(folder)
    if note is not None:
        return None if note.cache is None or read_meta(note.cache) is None else note.cache
    if (folder / _OF_A_RUN).exists():
        return None
    if read_meta(folder) is None:
        raise ValueError(f"{folder} is neither a cache of a dataset nor a run directory")
    return folder


def _write_back(array: npt.NDArray[Any]) -> None:
    mapped = array.base
    assert isinstance(mapped, np.memmap)
    mapped.flush()
