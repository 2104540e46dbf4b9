"""MosaicML streaming: MDS shards, streams with proportions, elastically deterministic order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import streaming
from streaming import MDSWriter, Stream, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from peers import Job, ResumableMix

VERSION = f"mosaicml-streaming {streaming.__version__}"


def write(folder: Path, images: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
    columns = {"image": "ndarray:uint8:" + ",".join(map(str, images.shape[1:])), "label": "int", "id": "int"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 22) as out:
        for image, label, id_ in zip(images, labels, ids, strict=True):
            out.write({"image": image, "label": int(label), "id": int(id_)})


class Mix(ResumableMix):
    def __init__(self, folders: Mapping[str, Path], shares: Mapping[str, int], job: Job) -> None:
        clean_stale_shared_memory()
        total = sum(shares.values())
        dataset = StreamingDataset(
            streams=[Stream(local=str(folder), proportion=shares[name] / total) for name, folder in folders.items()],
            epoch_size=job.length,
            batch_size=job.batch_size,
            shuffle=True,
            shuffle_seed=job.seed,
        )
        super().__init__(StreamingDataLoader(dataset, batch_size=job.batch_size, num_workers=job.workers))
