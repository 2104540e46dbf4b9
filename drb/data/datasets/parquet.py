"""Parquet files, as on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drb.data.containers import Container
from drb.data.containers.arrow import ArrowColumns
from drb.data.datasets.contained import ContainedDataset, files_by_split


class ArrowDataset(ContainedDataset):
    """Samples in one column, labels in another, of files that pyarrow reads (the extra `arrow`).

    image: the column of pictures (their bytes, or a struct of bytes and path) or of arrays, lists of numbers.
    label: the column of labels, integers or names.
    id_column: whose values name the samples; None names a sample by its content, which is read for it.
    """

    image: str = "image"
    label: str = "label"
    id_column: str | None = None

    def open(self, files: Sequence[str]) -> Container:
        return ArrowColumns(files, self.image, self.label, id_column=self.id_column)


class Parquet(ArrowDataset):
    """Parquet files: root/**/train-*.parquet and test-*.parquet, or any *.parquet with a part held out."""

    name = "parquet"

    def splits(self) -> Mapping[str, Sequence[str]]:
        return files_by_split(self.root, ".parquet", self.name)
