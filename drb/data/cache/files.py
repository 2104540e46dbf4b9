"""What a cache consists of, and reading it. No pickle anywhere.

NAME-KEY/          SPLIT-image.npy uint8 [n, C, H, W] or floats [n, …], SPLIT-label.npy and SPLIT-id.npy int64 [n], for
                   SPLIT in train and test;
                   cache.json: the facts of its key, the dataset's properties, the size of every file
NAME-KEY.erased/   SPLIT.npy bool [n]: which rows were erased, SPLIT-id.npy int64 [n]. Outside of the cache, because it
                   outlives it: one that is built again, also beside files that were added, leaves these rows blank
NAME-KEY.lock, NAME-KEY.failed, NAME-KEY.partial-NODE/   of the process that builds it (`build.py`)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from drb.data.identity import Identity
from drb.data.mapped import MappedSource
from drb.data.source import Dataset
from drb.types import BoolArray

VERSION = 3  # of this format; part of the key
SPLITS = ("train", "test")
META = "cache.json"


def key_of(facts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits for what JSON can hold."""
    text = json.dumps({"format": VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(root: Path, names: Iterable[str]) -> str:
    """A hash of the files' names (below root), sizes and modification times.

    Raises:
        ValueError: a file is not there any more.
    """
    digest = hashlib.sha256()
    prefix = os.path.join(root, "")
    for name in names:
        try:
            found = os.stat(prefix + name)
        except OSError as error:
            raise ValueError(f"the data file {prefix + name} cannot be read ({error.strerror})") from error
        digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode() + os.fsencode(name) + b"\0")
    return digest.hexdigest()


def image_file(folder: Path, split: str) -> Path:
    return folder / f"{split}-image.npy"


def label_file(folder: Path, split: str) -> Path:
    return folder / f"{split}-label.npy"


def id_file(folder: Path, split: str) -> Path:
    return folder / f"{split}-id.npy"


def erased_file(folder: Path, split: str) -> Path:
    return folder.with_name(f"{folder.name}.erased") / f"{split}.npy"


def erased_id_file(folder: Path, split: str) -> Path:
    return id_file(erased_file(folder, split).parent, split)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """cache.json; None if there is no cache.

    Raises:
        ValueError: it is damaged: a file is missing, or is not as long as it was when it was written.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"the file {folder / META} of the cache cannot be read ({error})") from error
    for name, size in meta["files"].items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise ValueError(f"the file {folder / name} of the cache cannot be read ({error.strerror})") from error
        if found != size:
            raise ValueError(f"the file {folder / name} of the cache has {found} bytes instead of {size}")
    return meta


def made_from(folder: Path) -> dict[str, Any]:
    """The facts that a cache was made from; none if there is no cache. Raises ValueError as `read_meta`."""
    return dict((read_meta(folder) or {"facts": {}})["facts"])


def open_cache(folder: Path) -> Dataset | None:
    """The dataset in a cache, its images mapped and not read; None if there is no cache.

    Raises:
        ValueError: as `read_meta`, or an array in it is not what it was.
    """
    meta = read_meta(folder)
    if meta is None:
        return None
    train, test = (_open_split(folder, split, meta) for split in SPLITS)
    return Dataset(
        train=train,
        test=test,
        image_shape=tuple(meta["image_shape"]),
        num_classes=meta["num_classes"],
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        dtype=torch.from_numpy(np.empty(0, meta["dtype"])).dtype,
        cache=folder,
        identity=Identity.from_json(meta["identity"]),
    )


def open_prefilled(folder: Path) -> Dataset:
    """The dataset in a folder that `drb prefill` has filled.

    Raises:
        ValueError: there is none, it is not whole, or it is damaged.
    """
    dataset = open_cache(folder.absolute())
    if dataset is not None:
        return dataset
    if folder.with_name(f"{folder.name}.partial").exists():
        raise ValueError(f"{folder} is not filled yet: give the command drb prefill again, which goes on where it was")
    what = "is there, but drb prefill has not made it" if folder.exists() else "is not there"
    raise ValueError(f"the prefilled folder {folder} {what}; make it with drb prefill {folder} dataset=…")


def map_array(path: Path, mode: Literal["r", "r+"] = "r") -> npt.NDArray[Any]:
    """A .npy file, mapped, as a plain array.

    Raises:
        ValueError: it cannot be.
    """
    try:
        return np.asarray(np.load(path, mmap_mode=mode, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the file {path} of the cache cannot be read ({error})") from error


def map_erased(folder: Path, split: str, num_rows: int, mode: Literal["r", "r+"] = "r") -> BoolArray:
    erased = map_array(erased_file(folder, split), mode)
    if erased.dtype != np.bool_ or erased.shape != (num_rows,):
        path = erased_file(folder, split)
        raise ValueError(f"the file {path} has {erased.dtype} {erased.shape} instead of bool [{num_rows}]")
    return erased


def _open_split(folder: Path, split: str, meta: Mapping[str, Any]) -> MappedSource:
    images, labels, ids = (map_array(file(folder, split)) for file in (image_file, label_file, id_file))
    form = np.dtype(meta["dtype"]), (len(labels), *meta["image_shape"])
    if (images.dtype, images.shape) != form or labels.dtype != np.int64:
        raise ValueError(f"the cache {folder} holds {images.dtype} {images.shape} for {len(labels)} labels")
    if ids.dtype != np.int64 or ids.shape != labels.shape:
        raise ValueError(f"the cache {folder} holds {ids.dtype} {ids.shape} as ids of {len(labels)} labels")
    return MappedSource(images, labels, ids, map_erased(folder, split, len(images)), where=folder)
