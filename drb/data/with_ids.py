"""Datasets of torch's kind, with sample ids: items become dicts whose `sample_id` is the item's position.

Pillow images become uint8 tensors of one number of channels, so that torch can stack them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from drb.data.decoding.worker import in_8_bits, upright_image
from drb.data.sampler_order import note_first_id

_MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels


def with_ids(
    dataset: Any, first_id: int = 0, *, channels: int | None = None, upright: bool = True
) -> Dataset[dict[str, Any]]:
    """`dataset` with items {"image", "label", "sample_id"}; sample_id is first_id + index.

    Items may be (image, label) pairs or dicts, whose other keys (and a sample_id of their own) are kept. Pillow images
    under any key become uint8 [C, H, W] tensors. `__getitems__` is there if the dataset has it.

    Args:
        channels: of Pillow images, 1 (grey) or 3 (RGB); None: as those of item 0 are, and others are refused.
        upright: turn Pillow images as their EXIF orientation says.
    Raises:
        ValueError: a dataset without indices, or an item of another form.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"with_ids needs a dataset with indices, got {type(dataset).__name__}; "
            'for a stream use Rehearsal(sample_id="arrival")'
        )
    if channels not in (None, *_MODES):
        raise ValueError(f"with_ids needs channels of 1, 3 or None, got {channels!r}")
    require_disjoint(dataset)
    note_first_id(first_id)
    kind = _BatchedIds if callable(getattr(dataset, "__getitems__", None)) else _Ids
    return kind(dataset, first_id, channels, upright)


def require_disjoint(dataset: Any) -> None:
    """Check a concatenation of data sets with ids, such as torch's ConcatDataset.

    Raises:
        ValueError: two of them number their samples alike, so that different samples would count as one.
    """
    parts = [part for part in getattr(dataset, "datasets", None) or () if isinstance(part, _Ids)]
    ranges = sorted(((part._first_id, part._first_id + len(part)) for part in parts), key=lambda ids: ids[0])
    for (_, end), (start, _) in itertools.pairwise(ranges):
        if start < end:
            raise ValueError(
                f"two of the concatenated data sets have samples of the ids {start} to {end - 1}, which would count as "
                f"the same: write with_ids(ConcatDataset([...])), or with_ids(next, first_id={end})"
            )


class _Ids(Dataset[dict[str, Any]]):
    def __init__(self, dataset: Any, first_id: int, channels: int | None, upright: bool) -> None:
        self._dataset = dataset
        self._first_id = first_id
        self._upright = upright
        self._channels = channels
        self._channels_of: dict[str, int] = {}  # by field, as item 0's

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._named(self._dataset[index], index)

    def _named(self, item: Any, index: int) -> dict[str, Any]:
        named = _as_dict(item, index)
        pictures = [name for name, value in named.items() if type(value).__module__.startswith("PIL.")]
        tensors = {name: self._tensor(named[name], name, index, alone=len(pictures) == 1) for name in pictures}
        return {"sample_id": self._first_id + index, **named, **tensors}

    def _tensor(self, image: Any, name: str, index: int, *, alone: bool) -> Tensor:
        """A Pillow image as uint8 [C, H, W]."""
        if not alone and name != "image" and image.mode not in _MODES.values():
            raise ValueError(
                f"field {name!r} of item {index} is a Pillow image of mode {image.mode} beside the picture: let the "
                "dataset return a tensor of what is meant, its indices or its colours"
            )
        try:
            pixels = in_8_bits(upright_image(image) if self._upright else image)
        except ValueError as error:
            raise ValueError(f"field {name!r} of item {index} is an image that cannot be used: {error}") from None
        channels = len(pixels.getbands())
        wanted = self._channels or self._channels_of_first(name, channels, index)
        if self._channels is None and channels != wanted:
            raise ValueError(
                f"field {name!r} of item {index} has {channels} channels (mode {image.mode}), that of item 0 has "
                f"{wanted}: write with_ids(dataset, channels=3) for colour or channels=1 for grey"
            )
        array = np.array(pixels.convert(_MODES[wanted]))
        return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())

    def _channels_of_first(self, name: str, channels: int, index: int) -> int:
        """The channels of item 0, which every worker of a loader looks at by itself, so that they agree."""
        if name not in self._channels_of:
            first = channels
            if index != 0:
                image = _as_dict(self._dataset[0], 0).get(name)
                is_image = type(image).__module__.startswith("PIL.")
                first = len(in_8_bits(image).getbands()) if is_image else channels
            self._channels_of[name] = first
        return self._channels_of[name]


class _BatchedIds(_Ids):
    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        items = self._dataset.__getitems__(indices)
        return [self._named(item, index) for item, index in zip(items, indices, strict=True)]


def _as_dict(item: Any, index: int) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "label": item[1]}
    raise ValueError(
        f"with_ids needs items (image, label) or dicts, got {type(item).__name__} for index {index}; "
        "let the dataset return a dict"
    )
