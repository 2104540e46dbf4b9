"""A folder that `drb prefill` has filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drb.data.cache import open_prefilled
from drb.data.datasets.builder import DatasetBuilder
from drb.data.source import Dataset


class Prefilled(DatasetBuilder):
    """The samples of a folder that `drb prefill` has filled, mapped: opened at once, held once by all ranks of a node.

    root: the folder.
    """

    name = "prefilled"
    fields = ("image", "label")

    def load(self, say: Callable[[str], None], known_classes: Sequence[str] = ()) -> Dataset:
        """See `DatasetBuilder.load`.

        Raises:
            ValueError: no such folder, or one that is damaged; its classes are numbered otherwise than the run's.
        """
        dataset = open_prefilled(Path(self.root))
        classes = dataset.identity.classes
        if known_classes and tuple(known_classes[: len(classes)]) != classes[: len(known_classes)]:
            raise ValueError(
                f"{self.root} numbers its classes {', '.join(classes[:5])}, …, and the run has "
                f"{', '.join(known_classes[:5])}, …; fill a folder from data with the classes of the run"
            )
        return dataset
