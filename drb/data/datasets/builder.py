"""What a data set is: its options, and how it is loaded."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from pathlib import Path

from drb.buffer.capacity import bytes_in
from drb.data.cache import CacheSettings
from drb.data.source import Dataset
from drb.options import setting
from drb.variant import Variant, options_of


class DatasetBuilder(Variant):
    """Loads a data set: raw uint8 images of one shape, labels and sample ids.

    root: where files are looked for and downloaded to.
    """

    root: str = "data"

    @abc.abstractmethod
    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        """The data set. Called once on every rank, at the same time.

        Args:
            say: told, in lines, what the user should read.
            known_classes: names of classes by label that a run has already; new ones get the labels behind them.
        Raises:
            ValueError: data that is not there or cannot be read.
        """


class BuiltinDataset(DatasetBuilder):
    """One of the data sets that `load_dataset` knows by name."""

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        from drb.data.datasets import load_dataset  # which imports this module's users

        own = {name: getattr(self, name) for name in options_of(self) if name not in _NOT_ITS_OWN}
        if known_classes:
            own["known_classes"] = known_classes
        return load_dataset(self.name, self.root, cache=self._cache(), say=say, **own)

    def _cache(self) -> CacheSettings | None:
        return None


class CachedDataset(BuiltinDataset):
    """Decoded images are kept in a file that all ranks of a node map; see docs/loader.md.

    cache: auto (if they take at most cache_limit and half of the free space), always or never.
    cache_dir: None takes drb-cache in root, or in the temporary folder if root cannot be written.
    cache_limit: bytes, such as 20GiB.
    """

    cache: str = setting("auto", one_of=("auto", "always", "never"))
    cache_dir: str | None = None
    cache_limit: str = "20GiB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bytes_in(self.cache_limit) is None:
            raise ValueError(f"{self.name}.cache_limit must be an amount such as 20GiB, got {self.cache_limit!r}")

    def _cache(self) -> CacheSettings:
        folder = None if self.cache_dir is None else Path(self.cache_dir)
        return CacheSettings(self.cache, folder, limit_bytes=bytes_in(self.cache_limit) or 0)


_NOT_ITS_OWN = options_of(CachedDataset)
