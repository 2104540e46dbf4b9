"""Data sets that torchvision downloads: one process at a time, and cached by what their files are."""

from __future__ import annotations

import abc
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drb.data.arrays import tensor_dataset
from drb.data.cache import fingerprint
from drb.data.datasets.builder import CachedDataset
from drb.data.source import Dataset


class DownloadedDataset(CachedDataset):
    """A data set that lies in the files of one folder, which are downloaded if they are not there."""

    @abc.abstractmethod
    def folder(self) -> Path:
        """Where the files are; there may be none before the download."""

    @abc.abstractmethod
    def read(self) -> Dataset:
        """The data set from its files, downloaded first if need be."""

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        if self.cache == "never":
            return self.read()
        if not _names_in(self.folder()):
            self.read()  # downloads them
        folder = self.folder()
        return self.cached(self.read, {"files": fingerprint(folder, _names_in(folder))}, say)


def from_torchvision(name: str, root: Path, num_classes: int) -> Dataset:
    """A data set of torchvision's, downloaded into `root` if it is not there.

    Raises:
        ValueError: it is not there and cannot be downloaded.
    """
    from torchvision import datasets

    try:
        with _exclusive(root):
            splits = [getattr(datasets, name)(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; torchvision raises RuntimeError
        raise ValueError(
            f"the dataset {name} is not under dataset.root={root} and cannot be downloaded there ({error}); download "
            "it on a machine with internet access and set dataset.root to its folder"
        ) from error
    train, test = ((_to_nchw(split.data), torch.as_tensor(split.targets)) for split in splits)
    return tensor_dataset(train, test, num_classes, name)


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


@contextlib.contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """One process at a time: all ranks load at once, but only the first may download and unpack."""
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):  # a site's shared copy: nobody can be downloading into it
        yield
        return
    with (root / ".drb-download.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _to_nchw(images: Any) -> Tensor:
    """[n, H, W] or [n, H, W, C] to contiguous [n, C, H, W]."""
    tensor = torch.as_tensor(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()
