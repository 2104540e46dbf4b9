"""Streams on which forgetting is planted: 60,000 samples of a base, and new samples that damage a part of it.

flipped: Fashion-MNIST; three of its classes come upside down, as three new classes.
turned: Fashion-MNIST; images of three classes come turned by a quarter and keep their labels: their domain drifts.
series: 20 regimes of a time series (dataset=drifting_series), to be told apart; two come louder, as new classes.

A sample is one row: 784 bytes of an image or 24 floats of a window. The base is divided into 20 clusters by k-means, of
pixels or, for windows, of the amplitudes of frequencies, which do not depend on where a window begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drb.coreset.kmeans import kmeans, nearest
from drb.data.datasets.drifting_series import DriftingSeries
from drb.data.datasets.fashion_mnist import FashionMnist
from drb.data.source import Dataset
from drb.distributed.world import World

CLUSTERS = 20
BASE = 60_000
KMEANS_STEPS, KMEANS_PARTS = 20, 6  # each step compares a sixth of the base with the centroids
FLIPPED, TURNED, LOUDER = torch.tensor([0, 4, 7]), torch.tensor([0, 3, 8]), torch.tensor([3, 11])
LOUDNESS = 1.25
_REGIMES = 20


@dataclass(frozen=True)
class Samples:
    """Rows x [n, D], uint8 of images or float32; labels and clusters, int64 [n]."""

    x: Tensor
    label: Tensor
    cluster: Tensor

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Stream:
    """A base and what is new, each with its test samples. epochs: over what is new."""

    name: str
    base: Samples
    base_test: Samples
    new: Samples
    new_test: Samples
    num_classes: int
    epochs: int


Pairs = list[tuple[Tensor, Tensor]]  # samples and labels, for training and for tests


def flipped() -> Stream:
    base = _pairs(FashionMnist().read(), "image")
    new = [(x.flip(2), 10 + torch.searchsorted(FLIPPED, y)) for x, y in _of_classes(base, FLIPPED)]
    return _stream("flipped", base, new, 10 + len(FLIPPED), epochs=2)


def turned() -> Stream:
    base = _pairs(FashionMnist().read(), "image")
    new = [(x.rot90(1, (2, 3)), y) for x, y in _of_classes(base, TURNED)]
    return _stream("turned", base, new, 10, epochs=2)


def series() -> Stream:
    data = DriftingSeries(
        num_regimes=_REGIMES, channels=1, num_train=BASE, num_test=10_000, noise=0.2, share_anomalous=0.0
    ).load(lambda _: None)
    base = _pairs(data, "series")
    new = [(LOUDNESS * x, _REGIMES + torch.searchsorted(LOUDER, y)) for x, y in _of_classes(base, LOUDER)]
    return _stream("series", base, new, _REGIMES + len(LOUDER), epochs=6)


STREAMS: dict[str, Callable[[], Stream]] = {"flipped": flipped, "turned": turned, "series": series}


def as_input(x: Tensor) -> Tensor:
    """float32, images in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _pairs(data: Dataset, field: str) -> Pairs:
    gathered = (source.gather(np.arange(len(source))) for source in (data.train, data.test))
    return [(rows[field], rows["label"]) for rows in gathered]


def _of_classes(pairs: Pairs, classes: Tensor) -> Pairs:
    return [(x[torch.isin(y, classes)], y[torch.isin(y, classes)]) for x, y in pairs]


def _stream(name: str, base: Pairs, new: Pairs, num_classes: int, epochs: int) -> Stream:
    features, alone = _features(base[0][0]), World()
    clusters = kmeans(features, torch.arange(len(features)), CLUSTERS, alone, steps=KMEANS_STEPS, parts=KMEANS_PARTS)
    samples = [
        Samples(x.flatten(1).contiguous(), y, nearest(_features(x), clusters.centroids)) for x, y in (*base, *new)
    ]
    return Stream(name, *samples, num_classes, epochs)


def _features(x: Tensor) -> Tensor:
    """What samples are divided into clusters by, float32 [n, F]."""
    return as_input(x).flatten(1) if x.dtype == torch.uint8 else torch.fft.rfft(x, dim=1).abs().flatten(1)
