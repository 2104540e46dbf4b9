"""ImageFolder: ROOT/train/<class>/*, ROOT/val or ROOT/test the same; decoded when gathered.

Images become RGB, their shorter side is resized to `resize` and the centre cropped to `image_size`: a rehearsal buffer
needs one shape, and random augmentation follows on the device. What fits is decoded once (`cache/`); what does not is
decoded by processes of its own (`decoders.py`), ahead of training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drb.data.cache import fingerprint
from drb.data.datasets.builder import CachedDataset
from drb.data.datasets.listing import Listing, PassedOver, class_folders, list_images
from drb.data.decoding.greys import note_on_greys
from drb.data.decoding.pool import DecoderPool
from drb.data.file_source import FileSource
from drb.data.identity import Identity
from drb.data.source import Dataset
from drb.machine import usable_cores
from drb.options import setting
from drb.types import Int64Array

# every user of pretrained weights normalises with these, the statistics of ImageNet
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DECODING_VERSION = 2  # raise it when the same file would become other pixels


class FolderSource(FileSource):
    """Image files, decoded on each gather by the processes of a pool that a dataset's sources share."""

    def __init__(
        self,
        folder: Path,
        names: npt.NDArray[np.bytes_],
        labels: Int64Array,
        sample_ids: Int64Array,
        *,
        image_size: int,
        decoders: DecoderPool,
    ) -> None:
        """names: paths below `folder`, bytes [n]: a million of them take 40 MB, as Path objects ten times that."""
        super().__init__(np.arange(len(names)), labels, sample_ids, shape=(3, image_size, image_size))
        self._folder = folder
        self._names = names
        self._decoders = decoders

    @classmethod
    def of(cls, listing: Listing, image_size: int, decoders: DecoderPool) -> FolderSource:
        return cls(
            listing.folder, listing.names, listing.labels, listing.sample_ids, image_size=image_size, decoders=decoders
        )

    @property
    def names(self) -> Iterator[str]:
        """The files' paths below the dataset's root."""
        return (os.path.join(self._folder.name, os.fsdecode(name)) for name in self._names[self._rows])

    def _read(self, rows: Int64Array, out: npt.NDArray[Any]) -> None:
        self._decoders.decode([os.path.join(self._folder, os.fsdecode(name)) for name in self._names[rows]], out)


class ImageFolder(CachedDataset):
    """Folders of image files (ImageNet, Tiny-ImageNet): root/train/<class>/* and root/val or root/test the same.

    image_size: height and width of the images, in pixels.
    resize: length of the shorter side before the crop; None: image_size.
    upright: turn images as their EXIF orientation says.
    source: the collection's name, a part of every sample id; another one for another collection.
    renamed: {old: new} names of class folders of a run that goes on: {dog: hound}, or {dog: ''} if the class is gone.
    workers: decoding processes of each rank, at most one per core that it may use.

    A sample's id is made of the collection's name, the split and the file's path below it: it is the same wherever the
    collection lies, and another one in another collection. Classes and ids of a renamed folder keep the old name.
    """

    name = "image_folder"
    fields = ("image", "label")
    not_content = frozenset({"workers"})
    image_size: int = setting(224, at_least=1)
    resize: int | None = setting(None, at_least=1)
    upright: bool = True
    source: str = "image_folder"
    renamed: dict[str, str] = field(default_factory=dict)
    workers: int = setting(8, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"image_folder.resize must be at least image_folder.image_size, {self.image_size}, got {self.resize}"
            )

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        """See `DatasetBuilder.load`.

        Raises:
            ValueError: folders that are missing, empty, odd or disagree.
        """
        listed = self._listed(known_classes)  # nothing is decoded yet
        for note in listed.notes:
            say(note)
        if self.cache == "never":
            return listed
        names = (
            name for source in (listed.train, listed.test) if isinstance(source, FolderSource) for name in source.names
        )
        facts = {
            "files": fingerprint(Path(self.root), names),
            "pillow": version("pillow"),
            "decoding": DECODING_VERSION,
            "classes": list(listed.identity.classes),
        }
        return replace(self.cached(lambda: listed, facts, say), notes=listed.notes)

    def _listed(self, known_classes: Sequence[str]) -> Dataset:
        root, resize = Path(self.root), self.resize or self.image_size
        train, test = _split_folder(root, "train"), _split_folder(root, "val", "test")
        passed_over = PassedOver()
        names = class_folders(train, passed_over)
        if (others := class_folders(test, passed_over)) != names:
            differing = sorted(set(names) ^ set(others))
            raise ValueError(f"{train} and {test} must have the same class folders; only one has {differing[:5]}")
        folders = _original_names(names, self.renamed, root)
        classes = _in_label_order(folders, known_classes, self.renamed, root)
        labels = {name: label for label, name in enumerate(classes)}
        listings = [
            list_images(folder, split, folders, labels, self.source, passed_over)
            for split, folder in (("train", train), ("test", test))
        ]
        decoders = DecoderPool(
            min(self.workers, len(usable_cores())), resize=resize, image_size=self.image_size, upright=self.upright
        )
        decoding = {"image_size": self.image_size, "resize": resize, "upright": self.upright}
        return Dataset(
            train=FolderSource.of(listings[0], self.image_size, decoders),
            test=FolderSource.of(listings[1], self.image_size, decoders),
            image_shape=(3, self.image_size, self.image_size),
            num_classes=len(classes),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            identity=Identity(
                self.source,
                tuple(classes),
                {**listings[0].parts, **listings[1].parts},
                {**decoding, "version": DECODING_VERSION},
            ),
            notes=tuple(_notes(root, train, test, passed_over, note_on_greys(train, listings[0].names))),
        )


def class_names(root: Path) -> list[str]:
    """The names of the class folders of root/train, sorted.

    Raises:
        ValueError: there are none.
    """
    return class_folders(_split_folder(root, "train"), PassedOver())


def _original_names(names: Sequence[str], renamed: Mapping[str, str], root: Path) -> dict[str, str]:
    """Class -> its folder's name; sorted by class."""
    old_of = {new: old for old, new in renamed.items() if new}
    if (unknown := sorted(set(old_of) - set(names))) or len(old_of) < sum(map(bool, renamed.values())):
        raise ValueError(
            f"renamed={renamed} must name a class folder of {root}/train once for each old name; "
            f"there is no {unknown or 'second one'}"
        )
    folders = {old_of.get(name, name): name for name in names}
    if len(folders) < len(names):
        twice = sorted(old for old, new in renamed.items() if new and old in names)
        raise ValueError(f"renamed={renamed} gives the name of a class that is still there: {twice}")
    return dict(sorted(folders.items()))


def _in_label_order(
    folders: Mapping[str, str], known: Sequence[str], renamed: Mapping[str, str], root: Path
) -> list[str]:
    """Classes by label: the known ones first, then the new ones, sorted. A known one may be gone.

    Raises:
        ValueError: a known class is gone where new ones have come, so that it may have been renamed.
    """
    new = [name for name in folders if name not in known]
    gone = [name for name in known if name not in folders and renamed.get(name) != ""]
    if gone and new:
        raise ValueError(
            f"{root}/train has no class {gone[0]!r} any more and a new one, {new[0]!r}: if it was renamed, set "
            f"dataset.renamed={{{gone[0]}: {new[0]}}}; if it is gone, dataset.renamed={{{gone[0]}: ''}}"
        )
    return [*known, *new]


def _notes(root: Path, train: Path, test: Path, passed_over: PassedOver, on_greys: str | None) -> Iterator[str]:
    if str(passed_over):
        yield f"passed over in {root}: {passed_over}"
    if on_greys is not None:
        yield on_greys
    if train.samefile(test):
        yield f"{test} is the same folder as {train}: the run will be tested on what it was trained on"


def _split_folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    found = (
        sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".") if root.is_dir() else []
    )
    hint = f" ({root} has the folders {', '.join(found[:5])}{', …' if len(found) > 5 else ''})" if found else ""
    raise ValueError(
        f"image_folder needs a folder {' or '.join(str(root / name) for name in names)}{hint}; set dataset.root to the "
        "folder that has train and val, each with a folder of pictures per class"
    )
