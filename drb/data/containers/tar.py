"""Shards of tar, as WebDataset writes them: files that share a name up to the first dot are one sample.

    cat/0001.jpg  cat/0001.cls        a picture and its label, an integer or a name
    0002.npy      0002.json           an array, and {"label": 3}
    3.left.png  3.right.png  3.cls    two pictures, of which one is chosen

The members are listed once; samples are then read from where they lie, in any order.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drb.data.containers.container import Value
from drb.types import Int64Array

PICTURES = ("bmp", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
ARRAY = "npy"
_MOST_NAMED = 5  # endings, in a message
_END = bytes(512)  # an archive ends with blocks of zeros


@dataclass
class _Sample:
    """key: the members' name up to the first dot. image: (extension, where it begins, its size). label: as stored."""

    key: str
    shard: int
    image: tuple[str, int, int] | None = None
    label: bytes | None = None
    extensions: list[str] = field(default_factory=list)


class TarShards:
    """The samples of several shards.

    files: paths of the shards. label: the extension of the labels' members; "json:NAME" takes NAME of a .json member.
    image: the extension of the members that are the pictures, such as left.png; None: each sample has only one.
    per_shard: whether keys count in their shard only, because every shard numbers its samples from 0.

    Raises:
        ValueError: a shard that is no whole tar file, or a sample without picture or label.
    """

    def __init__(self, files: Sequence[str], label: str, *, image: str | None = None, per_shard: bool = False) -> None:
        self.files = files
        self._image = None if image is None else image.removeprefix(".").lower()
        self._extension, _, self._field = label.partition(":")
        self._per_shard = per_shard
        self._samples = [sample for number in range(len(files)) for sample in self._listed(number)]
        self.classes: tuple[str, ...] = ()
        self.labels = self._labels()

    def __len__(self) -> int:
        return len(self._samples)

    def keys(self) -> list[bytes]:
        return [os.fsencode(self._key(sample)) for sample in self._samples]

    def name_of(self, index: int) -> str:
        sample = self._samples[index]
        assert sample.image is not None
        return f"{self.files[sample.shard]}: {sample.key}.{sample.image[0]}"

    def read(self, indices: Int64Array) -> list[Value]:
        return [self._read(index) for index in indices.tolist()]

    def _read(self, index: int) -> Value:
        sample = self._samples[index]
        assert sample.image is not None
        extension, offset, size = sample.image
        content = _part_of(self.files[sample.shard], offset, size)
        if len(content) < size:
            raise ValueError(f"{self.name_of(index)} is cut short: the shard has changed or is damaged")
        return content if _kind(extension) in PICTURES else _array(content, self.name_of(index))

    def _key(self, sample: _Sample) -> str:
        return f"{Path(self.files[sample.shard]).name}/{sample.key}" if self._per_shard else sample.key

    def _listed(self, number: int) -> list[_Sample]:
        """The samples of one shard, in the order of their first members."""
        path, found = self.files[number], dict[str, _Sample]()
        try:
            with open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    if member.isfile() and not os.path.basename(member.name).startswith("."):
                        self._add(found, archive, member, number)
                stream.seek(archive.offset)
                if stream.read(len(_END)) != _END:
                    raise tarfile.ReadError("it has no end: it is cut short")
        except (OSError, tarfile.TarError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            hint = "; unpack .tar.gz first: shards are read in any order" if path.endswith((".gz", ".tgz")) else ""
            raise ValueError(f"the shard {path} cannot be read ({reason}){hint}") from error
        for sample in found.values():
            self._require_whole(path, sample)
        return list(found.values())

    def _add(self, found: dict[str, _Sample], archive: tarfile.TarFile, member: tarfile.TarInfo, number: int) -> None:
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        sample = found.setdefault(key, _Sample(key, number))
        sample.extensions.append(extension)
        extension = extension.lower()
        if extension == self._image or (self._image is None and extension in (*PICTURES, ARRAY)):
            if sample.image is not None:
                raise tarfile.ReadError(
                    f"the sample {key} has two images, .{sample.image[0]} and .{extension}; choose one by "
                    f"dataset.image={extension}"
                )
            sample.image = extension, member.offset_data, member.size
        elif extension == self._extension:
            content = archive.extractfile(member)
            assert content is not None
            sample.label = content.read()

    def _require_whole(self, path: str, sample: _Sample) -> None:
        has = ", ".join(f".{extension}" for extension in sample.extensions[:_MOST_NAMED])
        several = [each for each in sample.extensions if "." in each and _kind(each.lower()) in (*PICTURES, ARRAY)]
        if sample.image is None and self._image is not None:
            raise ValueError(
                f"the sample {sample.key} of {path} has no picture .{self._image}, it has {has}; set dataset.image to "
                "an extension that all samples have"
            )
        if several and self._image is None:
            has += (
                f"; a sample's name ends at the first dot of its files' names: choose its picture by "
                f"dataset.image={several[0]}, or rename files with more dots"
            )
        if sample.image is None:
            raise ValueError(
                f"the sample {sample.key} of {path} has no picture and no .npy array, it has {has}; pictures end in "
                f"{', '.join(PICTURES)}"
            )
        if sample.label is None:
            raise ValueError(
                f"the sample {sample.key} of {path} has no label .{self._extension}, it has {has}; set dataset.label "
                "to the extension of the labels, such as cls or json:label"
            )

    def _labels(self) -> npt.NDArray[Any]:
        texts = [self._label(sample) for sample in self._samples]
        try:
            return np.array([int(text) for text in texts], np.int64)
        except ValueError:
            return np.array(texts, np.str_)

    def _label(self, sample: _Sample) -> str:
        where = f"the label {sample.key}.{self._extension} of {self.files[sample.shard]}"
        assert sample.label is not None
        try:
            text = sample.label.decode().strip()
            if not self._field:
                return text
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where} cannot be read ({error})") from None
        if not isinstance(content, dict) or not isinstance(content.get(self._field), (int, str)):
            raise ValueError(f"{where} has no integer or name {self._field!r}")
        return str(content[self._field])


def _kind(extension: str) -> str:
    """The last part of an extension, such as png of left.png."""
    return extension.rpartition(".")[2]


def _part_of(path: str, offset: int, size: int) -> bytes:
    """Opens the file anew: a thousand shards are more than a process may have open."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return os.pread(stream.fileno(), size, offset)
    except OSError as error:
        raise ValueError(f"the shard {path} cannot be read ({error.strerror})") from error


def _array(content: bytes, name: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{name} is no array that can be read ({error})") from error
    return array
