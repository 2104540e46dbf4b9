"""The small datasets, held as tensors: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100, synthetic images."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import importlib.util
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.data.datasets.builder import BuiltinDataset, CachedDataset
from drb.data.source import Dataset, tensor_dataset
from drb.options import setting
from drb.seeding import derive_seed
from drb.types import BoolArray

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


class Digits(BuiltinDataset):
    """scikit-learn's 1797 grey images of 8x8 in 10 classes, embedded in the package.

    seed: of the test split: the same whatever the run's seed.
    """

    name = "digits"
    seed: int = setting(0, at_least=0)
    test_fraction: float = setting(0.2, above=0, below=1)


class FashionMnist(CachedDataset):
    """70,000 grey images of 28x28 in 10 classes: from Debian's dataset-fashion-mnist, else from or into root."""

    name = "fashion_mnist"


class Cifar10(CachedDataset):
    """60,000 colour images of 32x32 in 10 classes, from or downloaded into root."""

    name = "cifar10"


class Cifar100(CachedDataset):
    """60,000 colour images of 32x32 in 100 classes, from or downloaded into root."""

    name = "cifar100"


class Synthetic(CachedDataset):
    """Noise of any size around one random pattern per class: for speed tests, yet learnable."""

    name = "synthetic"
    image_shape: list[int] = setting([3, 32, 32], at_least=1)
    num_classes: int = setting(10, at_least=1)
    num_train: int = setting(10_000, at_least=1)
    num_test: int = setting(1_000, at_least=1)
    seed: int = setting(0, at_least=0)


def digits(root: Path, *, seed: int = 0, test_fraction: float = 0.2) -> Dataset:
    """scikit-learn's 1797 grey images of 8x8, embedded in the package; a seeded stratified test split."""
    if not 0 < test_fraction < 1:
        raise ValueError(f"digits needs a test_fraction in (0, 1), got {test_fraction}")
    table = np.loadtxt(_digits_file(), delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    is_test = torch.from_numpy(_stratified(table[:, -1], test_fraction, derive_seed(seed, "digits")))
    return tensor_dataset((images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), 10, "digits")


def fashion_mnist(root: Path) -> Dataset:
    """60,000 + 10,000 grey images of 28x28 in 10 classes, from Debian's package or else from ROOT or its download."""
    if DEBIAN_FASHION_MNIST.is_dir():
        return tensor_dataset(_read_debian("train"), _read_debian("t10k"), 10, "fashion_mnist")
    return _from_torchvision("FashionMNIST", root, 10)


def cifar10(root: Path) -> Dataset:
    """50,000 + 10,000 colour images of 32x32 in 10 classes, from ROOT or downloaded into it."""
    return _from_torchvision("CIFAR10", root, 10)


def cifar100(root: Path) -> Dataset:
    """50,000 + 10,000 colour images of 32x32 in 100 classes, from ROOT or downloaded into it."""
    return _from_torchvision("CIFAR100", root, 100)


def synthetic(
    root: Path,
    *,
    image_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    num_train: int = 10_000,
    num_test: int = 1_000,
    seed: int = 0,
) -> Dataset:
    """Noise of any size around one random pattern per class: for speed tests, yet learnable."""
    if len(image_shape) != 3 or min(*image_shape, num_classes, num_train, num_test) < 1:
        raise ValueError(
            "synthetic needs image_shape=[C, H, W] and num_classes, num_train, num_test of at least 1, got "
            f"image_shape={list(image_shape)}, num_classes={num_classes}, num_train={num_train}, num_test={num_test}"
        )
    shape = (image_shape[0], image_shape[1], image_shape[2])
    generator = np.random.default_rng(derive_seed(seed, "synthetic"))
    patterns = generator.integers(0, 128, (num_classes, *shape), dtype=np.uint8)
    train, test = (_noisy(patterns, count, generator) for count in (num_train, num_test))
    return tensor_dataset(train, test, num_classes, "synthetic")


def fashion_mnist_files(root: Path) -> tuple[Path, list[str]]:
    """Where fashion_mnist's files are and which of them, or none before the download."""
    if DEBIAN_FASHION_MNIST.is_dir():
        return DEBIAN_FASHION_MNIST, _names_in(DEBIAN_FASHION_MNIST)
    folder = root / "FashionMNIST" / "raw"
    return folder, _names_in(folder)


def cifar10_files(root: Path) -> tuple[Path, list[str]]:
    folder = root / "cifar-10-batches-py"
    return folder, _names_in(folder)


def cifar100_files(root: Path) -> tuple[Path, list[str]]:
    folder = root / "cifar-100-python"
    return folder, _names_in(folder)


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _digits_file() -> Path:
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


def _noisy(patterns: npt.NDArray[np.uint8], count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    labels = np.arange(count) % len(patterns)
    images = np.empty((count, *patterns.shape[1:]), np.uint8)
    for at in range(0, count, 1024):  # in blocks, so that a set that just fits is made in place
        block = images[at : at + 1024]
        block[:] = patterns[labels[at : at + 1024]]
        block += generator.integers(0, 128, block.shape, dtype=np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _read_debian(split: str) -> tuple[Tensor, Tensor]:
    """The IDX format: a header of 16 (images) or 8 (labels) bytes, then bytes."""
    images = _unzipped(DEBIAN_FASHION_MNIST / f"{split}-images-idx3-ubyte.gz", 16, 28 * 28).reshape(-1, 1, 28, 28)
    labels = _unzipped(DEBIAN_FASHION_MNIST / f"{split}-labels-idx1-ubyte.gz", 8, 1)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def _unzipped(path: Path, header: int, row: int) -> npt.NDArray[np.uint8]:
    try:
        with gzip.open(path) as file:
            content = np.frombuffer(file.read(), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the data file {path} cannot be read ({error}); install its package again") from error
    if len(content) <= header or (len(content) - header) % row:
        raise ValueError(f"the data file {path} is cut short; install its package again")
    return content[header:]


def _from_torchvision(name: str, root: Path, num_classes: int) -> Dataset:
    from torchvision import datasets

    try:
        with _exclusive(root):
            splits = [getattr(datasets, name)(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; torchvision raises RuntimeError
        raise ValueError(
            f"the dataset {name} is not under root={root} and cannot be downloaded there ({error}); "
            "download it on a machine with internet access and set root to its folder"
        ) from error
    train, test = ((_to_nchw(split.data), torch.as_tensor(split.targets)) for split in splits)
    return tensor_dataset(train, test, num_classes, name)


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
