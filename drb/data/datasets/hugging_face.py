"""Data sets of the library `datasets` on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from drb.data.containers.arrow import saved_splits
from drb.data.datasets.parquet import ArrowDataset


class HuggingFace(ArrowDataset):
    """A data set that `save_to_disk` of Hugging Face's library `datasets` wrote into root; it is mapped, not copied."""

    name = "hugging_face"

    def splits(self) -> Mapping[str, Sequence[str]]:
        return saved_splits(Path(self.root))
