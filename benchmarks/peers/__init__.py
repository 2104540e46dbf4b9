"""Loaders that mix sources, each as its documentation recommends, over the same samples on the local disk.

A module has `VERSION`; `write(folder, images, labels, ids)`, which stores a source in the library's own format; and
`Mix(folders, shares, job)`, whose `minibatches()` gives the ids of each minibatch of this rank until the library's
epoch ends, and which has `state(step)` and `load(state)`, JSON, the former called between two minibatches.
"""

from __future__ import annotations

from dataclasses import dataclass

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
