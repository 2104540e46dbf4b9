"""drb's loader against torch's DataLoader with torchvision's transforms, at the same work: minibatches of raw images.

    python benchmarks/loader.py [--quick]

Three kinds of data: images of 28x28 in tensors, colour images of 64x64 in a memory-mapped file, and a folder of JPEGs
(decoded, shorter side resized, centre cropped), the latter in its first epoch (which decodes) and in later ones (drb's
from its cache; DataLoader decodes again). All loaders shuffle and deliver uint8 minibatches of b rows with labels and
ids; DataLoader gets the indices of a minibatch at once (`__getitems__`) where its dataset is an array, its fastest way.
Both are run in turn, several times; the figures are medians of images per second and of the paired ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import save
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from drb.data.datasets import CacheSettings, MappedSource, Source, TensorSource, load_dataset
from drb.data.loader import TaskLoader

Epoch = Callable[[int], Iterator[Any]]


class Items(Dataset[Any]):
    """A map-style dataset as people write them: one item per index."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return torch.as_tensor(np.array(self.images[index])), self.labels[index], index


class Batches(Items):
    """The same, asked for a whole minibatch at once."""

    def __getitems__(self, indices: list[int]) -> Any:
        rows = np.asarray(indices)
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows]), torch.from_numpy(rows)


class WithIndex(datasets.ImageFolder):
    def __getitem__(self, index: int) -> Any:
        return *super().__getitem__(index), index


def of_drb(source: Source, batch_size: int) -> Epoch:
    return TaskLoader(source, batch_size).epoch


def of_torch(dataset: Dataset[Any], batch_size: int, workers: int = 0, *, collate: bool = True) -> Epoch:
    options: dict[str, Any] = {} if collate else {"collate_fn": lambda batch: batch}
    if workers:
        options |= {"num_workers": workers, "persistent_workers": True, "multiprocessing_context": "fork"}
    loader = DataLoader(dataset, batch_size, shuffle=True, **options)
    return lambda epoch: iter(loader)


def rate(epoch: Epoch, number: int, images: int) -> float:
    """Images per second of one epoch; every minibatch is looked at."""
    start, seen = time.perf_counter(), 0
    for minibatch in epoch(number):
        seen += len(minibatch["label"] if isinstance(minibatch, dict) else minibatch[1])
    assert seen == images
    return images / (time.perf_counter() - start)


def compare(loaders: dict[str, Epoch], images: int, repetitions: int, warm: bool = True) -> dict[str, Any]:
    """Median rates by loader, and drb's ratio to each other one."""
    if warm:
        for epoch in loaders.values():
            rate(epoch, 0, images)
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(1, repetitions + 1):
        for name, epoch in loaders.items():
            rates[name].append(rate(epoch, number, images))
    ours = np.array(rates["drb"])
    ratios = {f"drb / {name}": float(np.median(ours / them)) for name, them in rates.items() if name != "drb"}
    figures = {name: round(float(np.median(values))) for name, values in rates.items()}
    return {"images_per_second": figures, "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()}}


def tensors(count: int, batch_size: int, repetitions: int) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 28, 28), np.uint8)
    labels = np.arange(count) % 10
    columns = {"image": images, "label": labels, "sample_id": np.arange(count)}
    source = TensorSource({name: torch.from_numpy(column) for name, column in columns.items()})
    loaders = {
        "drb": of_drb(source, batch_size),
        "DataLoader, item by item": of_torch(Items(images, labels), batch_size),
        "DataLoader, __getitems__": of_torch(Batches(images, labels), batch_size, collate=False),
    }
    return compare(loaders, count, repetitions)


def mapped(folder: Path, count: int, batch_size: int, repetitions: int) -> dict[str, Any]:
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (count, 3, 64, 64), np.uint8))
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.arange(count) % 10
    source = MappedSource(np.asarray(images), labels, np.arange(count), np.zeros(count, np.bool_), where=folder)
    loaders = {
        "drb": of_drb(source, batch_size),
        "DataLoader, item by item": of_torch(Items(images, labels), batch_size),
        "DataLoader, __getitems__": of_torch(Batches(np.asarray(images), labels), batch_size, collate=False),
    }
    return compare(loaders, count, repetitions)


def jpegs(folder: Path, count: int, size: int, batch_size: int, workers: int, repetitions: int) -> dict[str, Any]:
    root = folder / "jpegs"
    write_jpegs(root, count)
    as_drb = [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    dataset = WithIndex(str(root / "train"), transforms.Compose(as_drb))
    load = partial(load_dataset, "image_folder", root, image_size=size, workers=workers)
    undecoded = load().train
    first = {
        "drb": of_drb(undecoded, batch_size),
        "DataLoader": of_torch(dataset, batch_size, workers),
    }
    result = {"every epoch decoded": compare(first, count, repetitions)}
    start = time.perf_counter()
    cached = load(cache=CacheSettings("always", folder / "cache")).train
    result["making the cache, images per second"] = round(2 * count / (time.perf_counter() - start))
    later = {"drb": of_drb(cached, batch_size), "DataLoader": first["DataLoader"]}
    result["later epochs, from drb's cache"] = compare(later, count, repetitions)
    return result


def write_jpegs(root: Path, count: int) -> None:
    """Smooth random images of about 500x375, as ImageNet's: noise would take decoders unusually long."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(4):
            (root / split / str(label)).mkdir(parents=True)
        for index in range(count):
            small = generator.integers(0, 256, (24, 32, 3), np.uint8)
            image = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(root / split / str(index % 4) / f"{index}.jpg", quality=90)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="drb's loader against torch's DataLoader.")
    parser.add_argument("--quick", action="store_true", help="smaller data, under 40 seconds")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of both")
    parser.add_argument("--batch-size", type=int, default=56)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    many, repetitions = (1, 5) if options.quick else (5, 7)
    size = options.batch_size
    with tempfile.TemporaryDirectory() as scratch:
        figures = {
            "batch_size": size,
            "workers": options.workers,
            "tensors, 1x28x28": tensors(12_000 * many, size, repetitions),
            "memory-mapped, 3x64x64": mapped(Path(scratch), 4_000 * many, size, repetitions),
            "folder of JPEGs, 3x224x224": jpegs(Path(scratch), 150 * many, 224, size, options.workers, repetitions),
        }
    save("loader", figures)


if __name__ == "__main__":
    main()
