"""The samples of the prefilled folder that a stopped run draws from: which ones are forgotten, and are still there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from drb.data.cache import open_prefilled, read_run_file
from drb.data.mapped import MappedSource
from drb.rehearsal.selection import Where, matches
from drb.types import Int64Array

_AT_ONCE = 4096  # samples that a function looks at


class Prefilled:
    """A prefilled folder, as far as its samples have not been erased."""

    def __init__(self, folder: Path) -> None:
        """Map the folder. Raises ValueError if it is damaged."""
        self.folder = folder
        source = open_prefilled(folder).train
        assert isinstance(source, MappedSource)
        self._source = source.subset(np.flatnonzero(~source.erased))

    @classmethod
    def of(cls, run_dir: Path) -> Prefilled | None:
        """The folder of a run; None if it has none, or if that has been deleted."""
        known = read_run_file(run_dir)
        folder = None if known is None else known.prefilled
        return cls(folder) if folder is not None and folder.exists() else None

    def count(self, sample_ids: Int64Array) -> int:
        """How many of these samples the folder holds."""
        return int(np.count_nonzero(np.isin(self._source.sample_ids, sample_ids)))

    def matching(self, where: Where) -> Int64Array:
        """Ids of the samples for which `where` holds, int64; of none if it is about a field that they do not have.

        Raises:
            ValueError: not a condition.
        """
        ids, labels = self._source.sample_ids, torch.from_numpy(self._source.labels)
        known = {"sample_id": torch.from_numpy(ids), "label": labels, "stratum": labels}
        if isinstance(where, Mapping):
            return ids[matches(where, known)] if where.keys() <= known.keys() else ids[:0]
        found = [ids[:0]]
        for first in range(0, len(ids), _AT_ONCE):
            rows = np.arange(first, min(first + _AT_ONCE, len(ids)))
            sample = self._source.gather(rows)
            found.append(ids[rows][matches(where, {**sample, "stratum": sample["label"]})])
        return np.concatenate(found)
