"""The image files of a folder of class folders: each real folder once, nothing hidden, nothing that cannot be read.

What is odd is either passed over and counted, or refused here, before the first step, by its name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from drb.data.decoding.pool import shown
from drb.data.ids import first_repeated, ids_of_paths
from drb.types import Int64Array

SUFFIXES = (".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

_CLASSES_AT_MOST, _SUFFIXES_AT_MOST = 3, 4  # that a line names


@dataclass
class PassedOver:
    """Entries that were not taken: hidden ones, files in no class's folder, and files of a class that are no images.

    suffixes: "train/cat" -> how many files of each suffix were passed over; taken: how many files were not.
    """

    hidden: int = 0
    outside: int = 0
    suffixes: dict[str, Counter[str]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [
            *([f"{self.hidden} hidden files or folders"] if self.hidden else []),
            *([f"{self.outside} files in no class's folder"] if self.outside else []),
        ]
        worst = sorted(self.suffixes, key=lambda name: -self.suffixes[name].total())
        for name in worst[:_CLASSES_AT_MOST]:
            count, kinds = self.suffixes[name].total(), sorted(self.suffixes[name])[:_SUFFIXES_AT_MOST]
            parts.append(f"{count} of {count + self.taken[name]} files of {name} ({', '.join(kinds)})")
        if rest := worst[_CLASSES_AT_MOST:]:
            count = sum(self.suffixes[name].total() for name in rest)
            parts.append(f"{count} files of {len(rest)} more classes")
        taken = f"; image files end in {', '.join(SUFFIXES)}" if worst else ""
        return ", ".join(parts) + taken


@dataclass(frozen=True)
class Listing:
    """The image files of one split, those of a class one behind the other, sorted by their paths' bytes.

    names: paths below `folder`, bytes [n]; labels, sample_ids: int64 [n]; parts: as `Identity.parts`.
    """

    folder: Path
    names: npt.NDArray[np.bytes_]
    labels: Int64Array
    sample_ids: Int64Array
    parts: Mapping[str, Sequence[object]] = field(default_factory=dict)


class _File(NamedTuple):
    """path: below the split's folder. size: in bytes. written: when, in ns."""

    path: bytes
    size: int
    written: int


def class_folders(folder: Path, passed_over: PassedOver) -> list[str]:
    """The names of a split's class folders, sorted.

    Raises:
        ValueError: there is none, or the folder cannot be read.
    """
    names = []
    for entry in _entries(folder, passed_over):
        if _is(entry, "dir"):
            names.append(entry.name)
        elif entry.is_symlink() and not _is(entry, "file"):
            raise ValueError(f"the class folder {shown(entry.path)} is a link that leads nowhere; mend or remove it")
        else:
            passed_over.outside += 1
    if not names:
        raise ValueError(f"{folder} has no class folders; put the images of each class into a folder of its own")
    return sorted(names)


def list_images(
    folder: Path, split: str, folders: Mapping[str, str], labels: Mapping[str, int], source: str, passed: PassedOver
) -> Listing:
    """All image files of a split.

    Args:
        folders: class -> the folder's name below `folder`.
        labels: class -> its label.
        source, split: what ids are made of, besides the class and the path below its folder.
    Raises:
        ValueError: naming a class without images, a file or a folder that cannot be used, or two files of one id.
    """
    seen: dict[tuple[int, int], str] = {}
    files: dict[str, list[_File]] = {}
    for name, below in folders.items():
        suffixes: Counter[str] = Counter()
        files[name] = sorted(_image_files(folder, below, seen, passed, suffixes))
        if suffixes:
            shown_name = shown(f"{folder.name}/{below}")
            passed.suffixes[shown_name], passed.taken[shown_name] = suffixes, len(files[name])
    for name, found in files.items():
        if not found:
            raise ValueError(
                f"the class folder {shown(folder / folders[name])} has no image file ({', '.join(SUFFIXES)})"
            )
    start = {name: len(os.fsencode(below)) for name, below in folders.items()}
    called = [os.fsencode(name) + file.path[start[name] :] for name, found in files.items() for file in found]
    ids = ids_of_paths(source, split, called)
    names = np.array([file.path for found in files.values() for file in found])
    if (pair := first_repeated(ids)) is not None:
        first, second = (folder / os.fsdecode(names[index]) for index in pair)
        raise ValueError(
            f"the files {shown(first)} and {shown(second)} have the same sample id by chance; rename one of them"
        )
    return Listing(
        folder,
        names,
        np.repeat([labels[name] for name in files], [len(found) for found in files.values()]),
        ids,
        {f"{split}/{name}": _part(found, folders[name]) for name, found in files.items()},
    )


def _image_files(
    folder: Path,
    class_folder: str,
    seen: dict[tuple[int, int], str],
    passed_over: PassedOver,
    suffixes: Counter[str],
) -> Iterator[_File]:
    """A class's image files at any depth; links are followed.

    seen: real folders (device, inode) -> how they were reached; one that is reached again is refused.
    suffixes: of files that are no images, counted here.
    """
    waiting = [class_folder]
    while waiting:
        below = waiting.pop()
        path = folder / below
        status = path.stat()
        before = seen.setdefault((status.st_dev, status.st_ino), below)
        if before != below:
            raise ValueError(
                f"the folder {shown(path)} leads to {shown(folder / before)} again: "
                "its images would be there twice; remove the link"
            )
        for entry in _entries(path, passed_over):
            name = f"{below}/{entry.name}"
            if _is(entry, "dir"):
                waiting.append(name)
            elif not entry.name.lower().endswith(SUFFIXES):
                suffix = os.path.splitext(entry.name)[1].lower()
                suffixes[shown(suffix) or "no suffix"] += 1
            else:
                yield _file(os.fsencode(name), entry)


def _entries(folder: Path, passed_over: PassedOver) -> list[os.DirEntry[str]]:
    """What is not hidden, sorted by name, so that the same folder is refused everywhere."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise ValueError(f"the folder {shown(folder)} cannot be read ({error.strerror})") from error
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    passed_over.hidden += len(entries) - len(visible)
    return visible


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether it is a dir or a file, perhaps by a link. A link to itself is neither."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:
        return False


def _file(path: bytes, entry: os.DirEntry[str]) -> _File:
    if not _is(entry, "file"):
        kind = "is a link that leads nowhere" if entry.is_symlink() else "is no regular file"
        raise ValueError(f"the image file {shown(entry.path)} {kind}; remove it")
    status = entry.stat()
    if status.st_size == 0:
        raise ValueError(f"the image file {shown(entry.path)} is empty; replace or remove it")
    return _File(path, status.st_size, status.st_mtime_ns)


def _part(files: Sequence[_File], class_folder: str) -> list[object]:
    """What `Identity.parts` says of these files, by their names below the class's folder, which may be renamed."""
    content, written, start = blake2b(digest_size=8), blake2b(digest_size=8), len(os.fsencode(class_folder))
    for file in files:
        content.update(file.path[start:] + b"\0%d\0" % file.size)
        written.update(b"%d\0" % file.written)
    last = max(files, key=lambda file: file.written)
    return [len(files), content.hexdigest(), written.hexdigest(), shown(os.fsdecode(last.path[start + 1 :]))]
