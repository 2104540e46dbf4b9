"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), by torchvision."""

from __future__ import annotations

from pathlib import Path

from drb.data.datasets.downloaded import DownloadedDataset, from_torchvision
from drb.data.source import Dataset


class Cifar10(DownloadedDataset):
    """60,000 colour images of 32x32 in 10 classes, from or downloaded into root."""

    name = "cifar10"
    fields = ("image", "label")

    def folder(self) -> Path:
        return Path(self.root, "cifar-10-batches-py")

    def read(self) -> Dataset:
        return from_torchvision("CIFAR10", Path(self.root), 10)


class Cifar100(DownloadedDataset):
    """60,000 colour images of 32x32 in 100 classes, from or downloaded into root."""

    name = "cifar100"
    fields = ("image", "label")

    def folder(self) -> Path:
        return Path(self.root, "cifar-100-python")

    def read(self) -> Dataset:
        return from_torchvision("CIFAR100", Path(self.root), 100)
