"""drb.MixedSource over arrays mapped from a file, in torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from drb import MixedSource
from peers import Job

VERSION = "drb of this checkout"


class Mapped:
    """The samples of a folder."""

    def __init__(self, folder: Path) -> None:
        self.images, self.labels, self.ids = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        images, labels, ids = torch.from_numpy(self.images[indices]), self.labels[indices], self.ids[indices]
        return [
            {"image": image, "label": label, "id": id_} for image, label, id_ in zip(images, labels, ids, strict=True)
        ]


NAMES = ("images", "labels", "ids")


def write(folder: Path, images: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for name, values in zip(NAMES, (images, labels, ids), strict=True):
        np.save(folder / f"{name}.npy", values)


class Mix:
    def __init__(self, folders: Mapping[str, Path], shares: Mapping[str, int], job: Job) -> None:
        self._job = job
        parts = [(name, Mapped(folder), shares[name]) for name, folder in folders.items()]
        self._mixed = MixedSource(parts, batch_size=job.batch_size * job.world_size, seed=job.seed)

    def minibatches(self) -> Iterator[list[int]]:
        job = self._job
        steps = job.length // (job.batch_size * job.world_size) - self._mixed.step
        sampler = self._mixed.sampler(job.rank, job.world_size, steps=steps)
        for batch in DataLoader(self._mixed, batch_sampler=sampler, num_workers=job.workers):
            yield batch["id"].tolist()

    def state(self, step: int) -> Any:
        return self._mixed.state_dict(step)

    def load(self, state: Any) -> None:
        self._mixed.load_state_dict(state)
