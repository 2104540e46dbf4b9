"""Shards of tar, as WebDataset writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drb.data.containers import Container
from drb.data.containers.tar import ARRAY, PICTURES
from drb.data.containers.tar import TarShards as Shards
from drb.data.datasets.contained import ContainedDataset, files_by_split


class TarShards(ContainedDataset):
    """WebDataset's shards: root/train-*.tar and root/val-*.tar (or test-*.tar), or any *.tar with a part held out.

    image: the extension of the pictures (or .npy arrays) where samples have several, such as left.png.
    label: the extension of labels, integers or names; "json:NAME" takes NAME of a sample's .json file.
    per_shard: whether a sample's name counts in its shard only, as where every shard begins at 000000.

    A sample's id is made of its name in the shards, so it stays when shards are packed anew (not with per_shard).
    """

    name = "tar_shards"
    image: str | None = None
    label: str = "cls"
    per_shard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        ending = None if self.image is None else self.image.rpartition(".")[2].lower()
        if ending is not None and ending not in (*PICTURES, ARRAY):
            raise ValueError(
                f"{self.name}.image must be the extension of pictures or arrays, such as left.png, and end in one of "
                f"{', '.join((*PICTURES, ARRAY))}; got {self.image!r}"
            )

    def splits(self) -> Mapping[str, Sequence[str]]:
        return files_by_split(self.root, ".tar", self.name)

    def open(self, files: Sequence[str]) -> Container:
        return Shards(files, self.label, image=self.image, per_shard=self.per_shard)
