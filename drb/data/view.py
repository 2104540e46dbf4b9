"""Sources made of other sources, without copying: a selection (`View`) and a union (`Concat`).

Scenarios are built of views, so a stream costs an index per task, not a copy of the data. `subset` of an
in-memory view copies exactly the chosen samples, transformed once: that is how a rank holds only its own. One of mapped
or undecoded files copies nothing, and transforms on every gather.

Shapes: n samples, B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from drb.data.ids import in_guise
from drb.data.mapped import MappedSource
from drb.data.source import Source, TensorSource
from drb.data.with_columns import WithColumns
from drb.types import BoolArray, Int64Array, Minibatch

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
        guise: int = 0,
        task: int | None = None,
    ) -> None:
        """
        Args:
            indices: int64 [n], the samples of `source` that are seen.
            label_map: int64 [classes]; label y is seen as label_map[y].
            guise: of the samples, which gives them ids of their own; 0 are the source's.
            task: if given, minibatches carry `task`, int64 [B], filled with it.
        """
        self.source = source
        self.indices = indices
        self._transform = transform
        self._label_map = label_map
        self._guise = guise
        self._task = task

    @property
    def labels(self) -> Int64Array:
        labels = self.source.labels[self.indices]
        return labels if self._label_map is None else self._label_map[labels]

    @property
    def sample_ids(self) -> Int64Array:
        return in_guise(self.source.sample_ids[self.indices], self._guise)

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, indices: Int64Array) -> Minibatch:
        return self.seen(self.source.gather(self.indices[indices]))

    def seen(self, minibatch: Minibatch) -> Minibatch:
        """Return samples of `source`, which are changed in place, as this view has them."""
        if self._transform is not None:
            minibatch["image"] = self._transform(minibatch["image"])
        if self._label_map is not None:
            minibatch["label"] = torch.from_numpy(self._label_map)[minibatch["label"]]
        if self._guise:
            minibatch["sample_id"] = torch.from_numpy(in_guise(minibatch["sample_id"].numpy(), self._guise))
        if self._task is not None:
            minibatch["task"] = torch.full((len(minibatch["label"]),), self._task)
        return minibatch

    def subset(self, indices: Int64Array) -> Source:
        if self.in_memory and len(indices) > 0:
            blocks = [self.gather(indices[at : at + _BLOCK_ROWS]) for at in range(0, len(indices), _BLOCK_ROWS)]
            return TensorSource(_concatenate(blocks))
        return View(
            self.source,
            self.indices[indices],
            transform=self._transform,
            label_map=self._label_map,
            guise=self._guise,
            task=self._task,
        )


class Concat:
    """Several sources one after the other, all with the same columns: the data of all tasks so far."""

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise ValueError("Concat needs at least one source, got none")
        self.sources = list(sources)
        self._ends = np.cumsum([len(source) for source in sources])

    @property
    def labels(self) -> Int64Array:
        return np.concatenate([source.labels for source in self.sources])

    @property
    def sample_ids(self) -> Int64Array:
        return np.concatenate([source.sample_ids for source in self.sources])

    @property
    def in_memory(self) -> bool:
        return all(source.in_memory for source in self.sources)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, indices: Int64Array) -> Minibatch:
        part_of = np.searchsorted(self._ends, indices, side="right")
        order = np.argsort(part_of, kind="stable")
        parts = [
            self.sources[part].gather(indices[part_of == part] - (self._ends[part] - len(self.sources[part])))
            for part in (np.unique(part_of) if len(indices) else [0])
        ]
        back = torch.from_numpy(np.argsort(order))  # from the order of the parts to the order asked for
        return {name: column.index_select(0, back) for name, column in _concatenate(parts).items()}

    def subset(self, indices: Int64Array) -> Source:
        return View(self, np.arange(len(self))).subset(indices)


def is_mapped(source: Source) -> bool:
    """Whether a gather copies from mapped files, so that it is quick but for the disk."""
    if isinstance(source, (View, WithColumns)):
        return is_mapped(source.source)
    if isinstance(source, Concat):
        return all(is_mapped(part) for part in source.sources)
    return isinstance(source, MappedSource)


def erased_rows(source: Source) -> BoolArray | None:
    """Bool [n], the samples that were erased and cannot be gathered; None if there are none."""
    if isinstance(source, MappedSource):
        erased = source.erased
        return erased if erased.any() else None
    if isinstance(source, WithColumns):
        return erased_rows(source.source)
    if isinstance(source, View):
        below = erased_rows(source.source)
        return None if below is None else below[source.indices]
    if isinstance(source, Concat):
        parts = [erased_rows(part) for part in source.sources]
        if all(part is None for part in parts):
            return None
        blank = [np.zeros(len(part), np.bool_) for part in source.sources]
        return np.concatenate([none if part is None else part for part, none in zip(parts, blank, strict=True)])
    return None


def _concatenate(minibatches: Sequence[Minibatch]) -> Minibatch:
    if len(minibatches) == 1:
        return minibatches[0]
    return {name: torch.cat([minibatch[name] for minibatch in minibatches]) for name in minibatches[0]}
