"""Data sets in files that hold many samples each: what those of all kinds of files have in common."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from drb.data.arrays import statistics_of_some
from drb.data.cache import fingerprint
from drb.data.containers import ContainedSource, Container
from drb.data.containers.hold_out import held_out
from drb.data.datasets.builder import CachedDataset
from drb.data.datasets.image_folder import DECODING_VERSION, IMAGENET_MEAN, IMAGENET_STD
from drb.data.decoding.pool import DecoderPool
from drb.data.identity import Identity
from drb.data.ids import first_repeated, ids_of_paths
from drb.data.source import Dataset
from drb.machine import usable_cores
from drb.options import setting
from drb.types import Int64Array

TRAIN, TEST = ("train",), ("val", "valid", "validation", "test")  # what the names of splits begin with


class ContainedDataset(CachedDataset):
    """Samples in files that hold many of them.

    image_size: height and width of pictures, in pixels; arrays keep their shape.
    resize: length of a picture's shorter side before the crop; None: image_size.
    upright: turn pictures as their EXIF orientation says.
    source: the collection's name, a part of every sample id; another one for another collection.
    test_fraction: of samples that are held out where the files have no test split of their own; which ones follows
        from their ids, so that a sample stays on its side when others come.
    workers: decoding processes of each rank, at most one per core that it may use.
    """

    fields = ("image", "label")
    not_content: ClassVar[frozenset[str]] = frozenset({"workers"})
    image_size: int = setting(224, at_least=1)
    resize: int | None = setting(None, at_least=1)
    upright: bool = True
    source: str | None = None
    test_fraction: float = setting(0.1, above=0, below=1)
    workers: int = setting(8, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"{self.name}.resize must be at least {self.name}.image_size, {self.image_size}, got {self.resize}"
            )

    @property
    def _image(self) -> str | None:
        """Which of several pictures or columns is the sample, where there may be several."""
        return getattr(self, "image", None)

    @abc.abstractmethod
    def splits(self) -> Mapping[str, Sequence[str]]:
        """The files of each split, by the split's name; "" if they are in no named split.

        Raises:
            ValueError: there are none.
        """

    @abc.abstractmethod
    def open(self, files: Sequence[str]) -> Container:
        """The samples of these files. Raises ValueError if they cannot be read."""

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        """See `DatasetBuilder.load`.

        Raises:
            ValueError: files that are missing, damaged or hold something else.
        """
        splits = self.splits()
        files = {part: chosen for part, names in (("train", TRAIN), ("test", TEST)) if (chosen := _of(splits, names))}
        others = [path for name, each in splits.items() if not name.startswith((*TRAIN, *TEST)) for path in each]
        if "train" not in files:
            files = {"train": others, **files} if others else {"train": files["test"]}
        elif others:
            say(f"{_some(others)} of dataset={self.name} left out: other files are named train, and these are no split")
        top = Path(self.root) if Path(self.root).is_dir() else Path(self.root).parent
        facts = {
            "files": {
                part: fingerprint(top, (os.path.relpath(path, top) for path in paths)) for part, paths in files.items()
            },
            "pillow": version("pillow"),
            "decoding": DECODING_VERSION,
            "known": list(known_classes),
        }
        return self.cached(lambda: self._read(files, known_classes), facts, say)

    def _read(self, files: Mapping[str, Sequence[str]], known_classes: Sequence[str]) -> Dataset:
        containers = {part: self.open(paths) for part, paths in files.items()}
        for part, container in containers.items():
            if not len(container):
                raise ValueError(f"the files {_some(files[part])} hold no samples")
        classes = _classes(containers, known_classes)
        source = self.source or self.name
        ids = {part: _ids(container, source, part) for part, container in containers.items()}
        rows = {part: np.arange(len(each)) for part, each in ids.items()}
        if "test" not in containers:
            containers["test"], ids["test"] = containers["train"], ids["train"]
            is_test = held_out(ids["train"], self.test_fraction)
            rows = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
        labels = {part: _labels(container, classes, part) for part, container in containers.items()}
        make = self._maker(containers["train"])
        sources = {part: make(containers[part], rows[part], labels[part], ids[part]) for part in ("train", "test")}
        dataset = Dataset(
            train=sources["train"],
            test=sources["test"],
            image_shape=self._shape,
            num_classes=len(classes) or int(max(each.max() for each in labels.values())) + 1,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            dtype=self._dtype,
            identity=Identity(
                source,
                classes,
                {part: _part(len(rows[part]), files.get(part, files["train"])) for part in sources},
                {
                    "image_size": self.image_size,
                    "resize": self.resize or self.image_size,
                    "upright": self.upright,
                    "version": DECODING_VERSION,
                    **({} if self._image == getattr(type(self), "image", None) else {"image": self._image}),
                },
            ),
        )
        if self._is_picture:
            return dataset
        mean, std = statistics_of_some(sources["train"])
        return replace(dataset, mean=mean, std=std)

    def _maker(self, container: Container) -> Callable[[Container, Any, Any, Any], ContainedSource]:
        """What makes a source of rows of a container; the first sample tells whether they are pictures or arrays."""
        first = container.read(np.zeros(1, np.int64))[0]
        self._is_picture = isinstance(first, bytes)
        decoders, dtype = None, np.dtype(np.uint8)
        self._shape: tuple[int, ...] = (3, self.image_size, self.image_size)
        if isinstance(first, bytes):
            workers = min(self.workers, len(usable_cores()))
            resize = self.resize or self.image_size
            decoders = DecoderPool(workers, resize=resize, image_size=self.image_size, upright=self.upright)
        else:
            if not (first.dtype == np.uint8 or first.dtype.kind == "f") or not first.ndim:
                raise ValueError(
                    f"{container.name_of(0)} is {first.dtype} {list(first.shape)}; samples must be pictures, uint8 "
                    "[C, H, W] or floats of any shape"
                )
            self._shape, dtype = first.shape, first.dtype
        self._dtype = torch.from_numpy(np.empty(0, dtype)).dtype

        def make(container: Container, rows: Int64Array, labels: Int64Array, ids: Int64Array) -> ContainedSource:
            return ContainedSource(
                container, rows, labels[rows], ids[rows], shape=self._shape, dtype=dtype, decoders=decoders
            )

        return make


def files_by_split(root: str, suffix: str, kind: str) -> dict[str, list[str]]:
    """All files of a suffix below a folder, or one file, sorted, by the word that their names begin with.

    A name such as train-00000-of-00012.parquet begins with a split's word; so may the folder's that it lies in.

    Raises:
        ValueError: there are none.
    """
    top = Path(root)
    paths = [top] if top.is_file() else sorted(top.rglob(f"*{suffix}"), key=os.fsencode) if top.is_dir() else []
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(top).parts)]
    if not paths:
        what = "is empty" if top.is_dir() and not any(top.iterdir()) else "has none" if top.exists() else "is not there"
        raise ValueError(f"dataset={kind} needs {suffix} files in {root}, which {what}; set dataset.root")
    found: dict[str, list[str]] = {}
    for path in paths:
        named = [word for word in (path.name, path.parent.name) if word.startswith((*TRAIN, *TEST))]
        found.setdefault(named[0] if named else "", []).append(str(path))
    return found


def _of(splits: Mapping[str, Sequence[str]], words: Sequence[str]) -> list[str]:
    return [path for name, paths in splits.items() if name.startswith(tuple(words)) for path in paths]


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:2]) + (", …" if len(paths) > 2 else "")


def _classes(containers: Mapping[str, Container], known: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes by label, the known ones first; empty if labels are numbers without names."""
    names: list[str] = []
    kinds = {container.labels.dtype.kind for container in containers.values()}
    if len(kinds) > 1:
        raise ValueError("the labels of one split are integers and those of the other are names; give both one form")
    for container in containers.values():
        new = container.classes if kinds == {"i"} else np.unique(container.labels).tolist()
        names += [name for name in new if name not in names]
    names = names if kinds == {"i"} else sorted(names)
    return (*known, *(name for name in names if name not in known)) if names else ()


def _labels(container: Container, classes: Sequence[str], part: str) -> Int64Array:
    """int64 [N], as the classes are numbered."""
    label_of = {name: label for label, name in enumerate(classes)}
    if container.labels.dtype.kind != "i":
        named, inverse = np.unique(container.labels, return_inverse=True)
        numbers: Int64Array = np.array([label_of[str(name)] for name in named], np.int64)[inverse]
        return numbers
    labels: Int64Array = container.labels
    count = len(container.classes)
    if labels.min() < 0 or (count and labels.max() >= count):
        odd = int(labels.min() if labels.min() < 0 else labels.max())
        index = int((labels == odd).argmax())
        raise ValueError(
            f"{container.name_of(index)} of the {part} samples has the label {odd}; labels count from 0"
            + (f" to {count - 1}" if count else "")
        )
    return np.array([label_of[name] for name in container.classes], np.int64)[labels] if count else labels


def _ids(container: Container, source: str, part: str) -> Int64Array:
    ids = ids_of_paths(source, part, container.keys())
    if (pair := first_repeated(ids)) is not None:
        first, second = (container.name_of(index) for index in pair)
        raise ValueError(
            f"two samples have one name: {first} and {second}; give every sample a name of its own, or set "
            "dataset.per_shard=true if shards number their samples alike"
        )
    return ids


def _part(count: int, files: Sequence[str]) -> list[object]:
    """What `Identity.parts` says: how many samples, hashes of names and sizes and of times, the file written last."""
    content, written = blake2b(digest_size=8), blake2b(digest_size=8)
    found = [(os.stat(path), os.path.basename(path)) for path in files]
    for status, name in found:
        content.update(os.fsencode(name) + b"\0%d\0" % status.st_size)
        written.update(b"%d\0" % status.st_mtime_ns)
    content.update(b"%d" % count)
    return [count, content.hexdigest(), written.hexdigest(), max(found, key=lambda each: each[0].st_mtime_ns)[1]]
