"""Samples that came one file or folder after the other: a base, and what was new since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drb.data.cache.files import META
from drb.data.datasets.builder import CachedDataset
from drb.data.datasets.hugging_face import HuggingFace
from drb.data.datasets.image_folder import ImageFolder, class_names
from drb.data.datasets.parquet import Parquet
from drb.data.datasets.prefilled import Prefilled
from drb.data.datasets.tar_shards import TarShards
from drb.data.identity import Identity
from drb.data.ids import first_repeated
from drb.data.npz import npz_dataset, npz_samples
from drb.data.source import Arrival, Dataset, Source, TensorSource
from drb.data.view import Concat
from drb.options import setting
from drb.variant import options_of

_ID_BITS = 40  # of a sample's position in its file


class Arrivals(CachedDataset):
    """Samples of several files or folders, one behind the other; each is an arrival (scenario=arrivals, base_plus_new).

    An arrival is one of these, and all arrivals have samples of one shape and type:

    - file.npz with the arrays `image`, uint8 [n, C, H, W] or floats [n, …], and `label`, integers [n]; and, if it has
      test samples of its own, `test_image` and `test_label`
    - a folder of pictures, train/<class>/* and val/<class>/*, as for dataset=image_folder
    - a folder that `drb prefill` has filled
    - shards of tar or Parquet files (one, or a folder of them), or what `save_to_disk` of Hugging Face's library wrote,
      as for dataset=tar_shards, parquet and hugging_face

    Classes are known by their names if they have names, and each arrival may have other ones. All samples are
    normalised as those of the first arrival, so that a network goes on with what it was trained for.

    files: paths, in the order of arrival. Paths may be added at the end, and never removed.
    test_fraction: of an arrival without test samples, which are then the same in every run.
    image_size, resize, workers: of pictures, as for dataset=image_folder.
    image, label, id_column, per_shard: as for dataset=parquet and tar_shards; None takes what is usual there.
    """

    name = "arrivals"
    fields = ("image", "label")
    files: list[str] = setting([])
    test_fraction: float = setting(0.1, above=0, below=1)
    image_size: int = setting(224, at_least=1)
    resize: int | None = setting(None, at_least=1)
    workers: int = setting(8, at_least=1)
    image: str | None = None
    label: str | None = None
    id_column: str | None = None
    per_shard: bool = False

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        if not self.files:
            raise ValueError("dataset.files is empty: name at least one .npz file or folder")
        parts: list[Dataset] = []
        for number, file in enumerate(self.files):
            known = parts[-1].identity.classes if parts else known_classes
            parts.append(self._load_part(Path(file), f"arrival {number}", known, say))
            _require_alike(self.files, parts)
        _require_distinct(self.files, parts)
        train = _joined([part.train for part in parts])
        _require_own_ids(self.files, parts, train)
        return Dataset(
            train=train,
            test=_joined([part.test for part in parts]),
            image_shape=parts[0].image_shape,
            num_classes=max(part.num_classes for part in parts),
            mean=parts[0].mean,
            std=parts[0].std,
            dtype=parts[0].dtype,
            identity=_identity(self.name, self.files, parts),
            notes=tuple(note for part in parts for note in part.notes),
            arrivals=tuple(
                Arrival(file, len(part.train), len(part.test)) for file, part in zip(self.files, parts, strict=True)
            ),
        )

    def load_all_of(self, path: Path, known_classes: Sequence[str] = ()) -> Dataset:
        """All samples of one file or folder, as test samples; those of an .npz file are `image` and `label`.

        Raises:
            ValueError: as `load`.
        """
        if not is_prefilled(path) and kind_of(path) is None:
            return npz_samples(path)
        found = self._load_part(path, "all", known_classes, lambda line: None)
        return replace(found, test=Concat([found.train, found.test]))

    def _load_part(self, path: Path, source: str, known: Sequence[str], say: Callable[[str], None]) -> Dataset:
        """One arrival, whose new classes have the labels behind the known ones.

        source: a part of its samples' ids.
        """
        if is_prefilled(path):
            return Prefilled(root=str(path)).load(say, known)
        kind = kind_of(path)
        if kind is None:
            return npz_dataset(path, self.test_fraction)
        own, common = options_of(type(self)), options_of(kind).keys()
        options = {name: value for name in own.keys() & common if (value := getattr(self, name)) is not None}
        options |= {"root": str(path), "source": source}
        if kind is ImageFolder:
            options["renamed"] = dict.fromkeys(set(known) - set(class_names(path)), "")  # which is allowed here
        return kind(**options).load(say, known)


_BY_SUFFIX: dict[str, type[CachedDataset]] = {".tar": TarShards, ".parquet": Parquet}


def is_prefilled(path: Path) -> bool:
    """Whether `drb prefill` has filled this folder."""
    return (path / META).exists()


def kind_of(path: Path) -> type[CachedDataset] | None:
    """What reads an arrival; None if it is, or should be, an .npz file."""
    if not path.is_dir():
        return _BY_SUFFIX.get(path.suffix)
    if any((path / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
        return HuggingFace
    for suffix, kind in _BY_SUFFIX.items():
        if next(path.rglob(f"[!.]*{suffix}"), None) is not None:
            return kind
    return ImageFolder


def _require_alike(files: Sequence[str], parts: Sequence[Dataset]) -> None:
    """Raise ValueError if the last part has other samples, or labels of another kind, than the first."""
    first, last = parts[0], parts[-1]
    if (first.image_shape, first.dtype) != (last.image_shape, last.dtype):
        raise ValueError(
            f"all files of dataset=arrivals must have samples of one kind: {files[0]} has {_kind(first)}, and "
            f"{files[len(parts) - 1]} has {_kind(last)}"
        )
    if bool(first.identity.classes) != bool(last.identity.classes):
        named, numbered = (0, -1) if first.identity.classes else (-1, 0)
        at = [files[0], files[len(parts) - 1]]
        raise ValueError(
            f"all files of dataset=arrivals must know their classes alike: {at[named]} has names of classes, and "
            f"{at[numbered]} has numbers"
        )


def _require_distinct(files: Sequence[str], parts: Sequence[Dataset]) -> None:
    held: dict[Any, int] = {}
    for number, part in enumerate(parts):
        whole = part.identity.parts.get("train")  # of arrays; pictures are known by their paths
        content = Path(files[number]).resolve() if whole is None else tuple(whole)
        first = held.setdefault(content, number)
        if first != number:
            raise ValueError(
                f"dataset.files has the same samples twice, as {files[first]} and as {files[number]}; name them once"
            )


def _require_own_ids(files: Sequence[str], parts: Sequence[Dataset], train: Source) -> None:
    """Raise ValueError if a prefilled folder has a sample of the same id as another part."""
    if not any(is_prefilled(Path(file)) for file in files) or (pair := first_repeated(train.sample_ids)) is None:
        return
    ends = np.cumsum([len(part.train) for part in parts])
    first, second = (files[int(np.searchsorted(ends, place, side="right"))] for place in pair)
    raise ValueError(
        f"{first} and {second} of dataset=arrivals both have a sample of the id {train.sample_ids[pair[0]]}, which "
        "would count as one; name the prefilled folder first, or fill it anew from data of another dataset.source"
    )


def _identity(name: str, files: Sequence[str], parts: Sequence[Dataset]) -> Identity:
    """The identity of all parts; each keeps its own entries, behind its number and name."""
    hashes = {}
    for number, (file, part) in enumerate(zip(files, parts, strict=True), 1):
        for key, value in part.identity.parts.items():
            split, _, rest = key.partition("/")
            hashes["/".join(filter(None, (split, f"{number} {Path(file).name}", rest)))] = value
    return Identity(name, parts[-1].identity.classes, hashes, parts[0].identity.decoding)


def _joined(sources: Sequence[Source]) -> Source:
    """The samples of all sources. Positions in a file become ids that tell the file, too; others have ids already."""
    numbered = [_numbered(number, source) for number, source in enumerate(sources)]
    tensors = [source for source in numbered if isinstance(source, TensorSource)]
    if len(tensors) < len(numbered):
        return Concat(numbered)
    names = ("image", "label", "sample_id")
    return TensorSource({name: torch.cat([source.columns[name] for source in tensors]) for name in names})


def _numbered(number: int, source: Source) -> Source:
    if not isinstance(source, TensorSource):
        return source
    return TensorSource({**source.columns, "sample_id": (number << _ID_BITS) + torch.arange(len(source))})


def _kind(dataset: Dataset) -> str:
    return f"{str(dataset.dtype).removeprefix('torch.')} {list(dataset.image_shape)}"
