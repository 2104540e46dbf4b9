"""Loaders that mix sources, each as its documentation recommends, over the same samples on the local disk.

A module has `VERSION`; `write(folder, images, labels, ids)`, which stores a source in the library's own format; and
`Mix(folders, shares, job)`, whose `minibatches()` gives the ids of each minibatch of this rank until the library's
epoch ends, and which has `state(step)` and `load(state)`, JSON, the former called between two minibatches.
`ResumableMix` is that of a loader which saves its own state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SHAPE = (3, 64, 64)  # of an image, uint8
PEERS = ("drb_mix", "mosaicml", "hugging_face", "lightning")


@dataclass(frozen=True)
class Job:
    """batch_size: of a rank. workers: processes of a rank's loader. length: samples of an epoch on all ranks."""

    rank: int
    world_size: int
    batch_size: int
    workers: int
    length: int
    seed: int = 0


class ResumableMix:
    """A `Mix` of a loader that has `state_dict` and `load_state_dict`, and whose minibatches have a field `id`."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def minibatches(self) -> Iterator[list[int]]:
        for batch in self._loader:
            yield batch["id"].tolist()

    def state(self, step: int) -> Any:
        return self._loader.state_dict()

    def load(self, state: Any) -> None:
        self._loader.load_state_dict(state)
