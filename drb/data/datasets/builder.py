"""What a data set is: its options, and how it is loaded."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from drb.buffer.capacity import bytes_in
from drb.data.cache import CacheSettings, cached
from drb.data.source import Dataset
from drb.options import setting
from drb.variant import Variant, name_of, options_of


class DatasetBuilder(Variant):
    """Loads a data set: samples of one shape (raw uint8 images, or floats of any shape), labels and sample ids.

    root: where files are looked for and downloaded to.
    """

    fields: ClassVar[tuple[str, ...] | None] = None
    """What each sample has, besides `sample_id`, if it is known before the data is loaded."""

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


class CachedDataset(DatasetBuilder):
    """A data set that may be kept, once decoded, in a file that all ranks of a node map; see docs/loader.md.

    cache: auto (if it takes at most cache_limit and half of the free space), always or never.
    cache_dir: null takes drb-cache in root, or in the temporary folder if root cannot be written.
    cache_limit: bytes, such as 20GiB.
    """

    not_content: ClassVar[frozenset[str]] = frozenset()
    """Options that change no sample and no label, such as the number of workers."""

    cache: str = setting("auto", one_of=("auto", "always", "never"))
    cache_dir: str | None = None
    cache_limit: str = "20GiB"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bytes_in(self.cache_limit) is None:
            raise ValueError(f"{self.name}.cache_limit must be an amount such as 20GiB, got {self.cache_limit!r}")

    def cached(self, read: Callable[[], Dataset], facts: Mapping[str, Any], say: Callable[[str], None]) -> Dataset:
        """What `read` returns: from the cache, or into it, or as it is if nothing is to be cached.

        Args:
            facts: what the data depends on besides this object's options, such as a fingerprint of the files.
        Raises:
            ValueError: as `read`; with cache=always, that there is no room.
        """
        names = [name for name in options_of(self) if name not in _NOT_CONTENT | self.not_content]
        options = {name: getattr(self, name) for name in names}
        folder = None if self.cache_dir is None else Path(self.cache_dir)
        settings = CacheSettings(self.cache, folder, limit_bytes=bytes_in(self.cache_limit) or 0)
        name = name_of(self)
        return cached(name, Path(self.root), read, {"name": name, **options, **facts}, settings, say)


_NOT_CONTENT = frozenset(options_of(CachedDataset))
