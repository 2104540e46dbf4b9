"""Rows of batches that ranks of a run were given, all ranks together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from training.terms.replay import pixels


def rows_of(pair: Any, kind: str) -> tuple[Tensor, Tensor]:
    """Pixels and labels of both ranks' new or rehearsed rows."""
    cut = {
        "new": lambda b: slice(0, b["new"]),
        "rehearsed": lambda b: slice(b["new"], None),
        "all": lambda b: slice(None),
    }
    parts = [{n: batch["fields"][n][cut[kind](batch)] for n in ("image", "label")} for batch in pair]
    image, label = (torch.from_numpy(np.concatenate([part[n] for part in parts])) for n in ("image", "label"))
    return pixels(image), label


def of_step(pairs: Any, of_batch: Any) -> Tensor:
    """Each batch counts by its rows."""
    sizes = [len(rows_of(pair, "all")[1]) for pair in pairs]
    return sum(of_batch(pair) * size / sum(sizes) for pair, size in zip(pairs, sizes, strict=True))


def shares_of(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels, minlength=num_classes).double() / max(1, len(labels))
