"""Fashion-MNIST, from Debian's package or by torchvision."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.data.arrays import tensor_dataset
from drb.data.datasets.downloaded import DownloadedDataset, from_torchvision
from drb.data.source import Dataset

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


class FashionMnist(DownloadedDataset):
    """70,000 grey images of 28x28 in 10 classes: from Debian's dataset-fashion-mnist, else from or into root."""

    name = "fashion_mnist"
    fields = ("image", "label")

    def folder(self) -> Path:
        return DEBIAN_FASHION_MNIST if DEBIAN_FASHION_MNIST.is_dir() else Path(self.root, "FashionMNIST", "raw")

    def read(self) -> Dataset:
        if DEBIAN_FASHION_MNIST.is_dir():
            return tensor_dataset(_read_debian("train"), _read_debian("t10k"), 10, self.name)
        return from_torchvision("FashionMNIST", Path(self.root), 10)


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
