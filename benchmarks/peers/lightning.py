"""litdata: optimized chunks, streaming data sets combined by weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import numpy as np
from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset

from peers import Job, ResumableMix

VERSION = f"litdata {litdata.__version__}"


def _sample(images: np.ndarray, labels: np.ndarray, ids: np.ndarray, index: int) -> dict[str, Any]:
    return {"image": images[index], "label": int(labels[index]), "id": int(ids[index])}


def write(folder: Path, images: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    sample = partial(_sample, images, labels, ids)
    litdata.optimize(sample, list(range(len(ids))), str(folder), chunk_bytes="4MB", num_workers=1)


class Mix(ResumableMix):
    def __init__(self, folders: Mapping[str, Path], shares: Mapping[str, int], job: Job) -> None:
        parts = [StreamingDataset(str(folder), shuffle=True, seed=job.seed) for folder in folders.values()]
        total = sum(shares.values())
        weights = [shares[name] / total for name in folders]
        mixed = CombinedStreamingDataset(parts, seed=job.seed, weights=weights, iterate_over_all=False)
        super().__init__(StreamingDataLoader(mixed, batch_size=job.batch_size, num_workers=job.workers))
