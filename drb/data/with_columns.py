"""A source whose samples get further fields, of one integer each: a group that was found for every sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drb.data.source import Source, TensorSource
from drb.types import Int64Array, Minibatch


def with_columns(source: Source, columns: Mapping[str, Tensor]) -> Source:
    """The same samples, also with these fields: int64 [n] each, in the source's order.

    Raises:
        ValueError: the samples have such a field already; where they are not in memory, it is raised by `gather`.
    """
    if isinstance(source, TensorSource):
        _require_new(columns, source.columns)
        return TensorSource({**source.columns, **columns})
    return WithColumns(source, columns)


class WithColumns:
    """Samples of another source, with fields that are held here."""

    def __init__(self, source: Source, columns: Mapping[str, Tensor]) -> None:
        """columns: int64 [n] each."""
        assert all(len(column) == len(source) for column in columns.values())
        self.source, self.columns = source, dict(columns)

    @property
    def labels(self) -> Int64Array:
        return self.source.labels

    @property
    def sample_ids(self) -> Int64Array:
        return self.source.sample_ids

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    def __len__(self) -> int:
        return len(self.source)

    def gather(self, indices: Int64Array) -> Minibatch:
        rows, found = torch.from_numpy(indices), self.source.gather(indices)
        _require_new(self.columns, found)
        return {**found, **{name: column[rows] for name, column in self.columns.items()}}

    def subset(self, indices: Int64Array) -> Source:
        rows = torch.from_numpy(indices)
        return with_columns(self.source.subset(indices), {name: column[rows] for name, column in self.columns.items()})


def _require_new(columns: Mapping[str, Tensor], fields: Mapping[str, Tensor]) -> None:
    if taken := sorted(columns.keys() & fields.keys()):
        raise ValueError(f"the samples have a field {taken[0]!r} already, which a column of that name would replace")
