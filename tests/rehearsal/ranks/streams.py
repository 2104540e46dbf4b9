"""Small streams for tests: records whose every word follows from the sample id, so that a wrong row shows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from drb.types import Minibatch

NUM_CLASSES = 5


def records(sample_ids: Tensor | list[int], words: int = 6) -> Minibatch:
    """image uint8 [B, 1, 2, 4·words] whose bytes follow from the id; label; sample_id."""
    ids = torch.as_tensor(sample_ids, dtype=torch.int64)
    pattern = torch.arange(8 * words)
    image = ((ids[:, None] * 31 + pattern) % 251).to(torch.uint8).reshape(len(ids), 1, 2, 4 * words)
    return {"image": image, "label": ids % NUM_CLASSES, "sample_id": ids}


def num_wrong(batch: Minibatch, words: int = 6) -> int:
    """Rows that are not what their sample id says."""
    expected = records(batch["sample_id"], words)
    wrong = (batch["image"] != expected["image"]).flatten(1).any(1) | (batch["label"] != expected["label"])
    return int(wrong.sum())


def nothing(words: int = 6) -> Minibatch:
    """A minibatch without rows: a round that changes no buffer."""
    return records([], words)


def ids_of_rank(rank: int, world_size: int, count: int) -> np.ndarray:
    """Ids 0, 1, … dealt to the ranks."""
    return np.arange(count) * world_size + rank
