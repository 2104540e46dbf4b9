"""The datasets by name."""

from __future__ import annotations

from collections.abc import Callable

from drb.datasets.builtin import cifar10, cifar100, digits, fashion_mnist, synthetic
from drb.datasets.folder import image_folder
from drb.datasets.source import Dataset

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "synthetic": synthetic,
}
