"""Sources made of other sources, without copying: a selection (`View`) and a union (`Concat`).

Scenarios are built of views, so a stream costs an index per task, not a copy of the data. `subset` of an
in-memory view copies exactly the chosen samples, transformed once: that is how a rank holds only its own.

Shapes: n samples, B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from drb.datasets.source import Source, TensorSource
from drb.types import Int64Array, Minibatch

Transform: TypeAlias = Callable[[Tensor], Tensor]
"""Raw images to raw images, uint8 [B, C, H, W] -> uint8 [B, C, H, W], a whole batch at a time."""

_BLOCK_ROWS = 4096  # bounds the memory of a transform while a subset is copied


class View:
    """Some samples of a source, possibly transformed, relabelled, renumbered and marked with a task id."""

    def __init__(
        self,
        source: Source,
        indices: Int64Array,
        *,
        transform: Transform | None = None,
        label_map: Int64Array | None = None,
        id_offset: int = 0,
        task: int | None = None,
    ) -> None:
        """
        Args:
            indices: int64 [n], the samples of `source` that are seen.
            label_map: int64 [classes]; label y is seen as label_map[y].
            id_offset: added to every sample id.
            task: if given, minibatches carry `task`, int64 [B], filled with it.
        """
        self._source = source
        self._indices = indices
        self._transform = transform
        self._label_map = label_map
        self._id_offset = id_offset
        self._task = task

    @property
    def labels(self) -> Int64Array:
        labels = self._source.labels[self._indices]
        return labels if self._label_map is None else self._label_map[labels]

    @property
    def sample_ids(self) -> Int64Array:
        return self._source.sample_ids[self._indices] + self._id_offset

    @property
    def in_memory(self) -> bool:
        return self._source.in_memory

    def __len__(self) -> int:
        return len(self._indices)

    def gather(self, indices: Int64Array) -> Minibatch:
        minibatch = self._source.gather(self._indices[indices])
        if self._transform is not None:
            minibatch["image"] = self._transform(minibatch["image"])
        if self._label_map is not None:
            minibatch["label"] = torch.from_numpy(self._label_map)[minibatch["label"]]
        if self._id_offset:
            minibatch["sample_id"] = minibatch["sample_id"] + self._id_offset
        if self._task is not None:
            minibatch["task"] = torch.full((len(indices),), self._task)
        return minibatch

    def subset(self, indices: Int64Array) -> Source:
        if self.in_memory and len(indices) > 0:
            blocks = [self.gather(indices[at : at + _BLOCK_ROWS]) for at in range(0, len(indices), _BLOCK_ROWS)]
            return TensorSource(_concatenate(blocks))
        return View(
            self._source,
            self._indices[indices],
            transform=self._transform,
            label_map=self._label_map,
            id_offset=self._id_offset,
            task=self._task,
        )


class Concat:
    """Several sources one after the other, all with the same columns: the data of all tasks so far."""

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise ValueError("Concat needs at least one source, got none")
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in sources])

    @property
    def labels(self) -> Int64Array:
        return np.concatenate([source.labels for source in self._sources])

    @property
    def sample_ids(self) -> Int64Array:
        return np.concatenate([source.sample_ids for source in self._sources])

    @property
    def in_memory(self) -> bool:
        return all(source.in_memory for source in self._sources)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, indices: Int64Array) -> Minibatch:
        part_of = np.searchsorted(self._ends, indices, side="right")
        order = np.argsort(part_of, kind="stable")
        parts = [
            self._sources[part].gather(indices[part_of == part] - (self._ends[part] - len(self._sources[part])))
            for part in np.unique(part_of)
        ]
        back = torch.from_numpy(np.argsort(order))  # from the order of the parts to the order asked for
        return {name: column.index_select(0, back) for name, column in _concatenate(parts).items()}

    def subset(self, indices: Int64Array) -> Source:
        return View(self, np.arange(len(self))).subset(indices)


def _concatenate(minibatches: Sequence[Minibatch]) -> Minibatch:
    if len(minibatches) == 1:
        return minibatches[0]
    return {name: torch.cat([minibatch[name] for minibatch in minibatches]) for name in minibatches[0]}
