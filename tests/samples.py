"""Samples whose every field follows from the sample id, so that a test can tell whether a row was torn or mixed up."""

from __future__ import annotations

import numpy as np
import torch

from drb.buffer.admission import Offer
from drb.seeding import sample_keys

IMAGE_SHAPE = (1, 5, 5)


def image_of(ids) -> torch.Tensor:
    """uint8 [B, 1, 5, 5]; 25 bytes, so that a record's image does not end on a word."""
    ids = torch.as_tensor(np.asarray(ids, np.int64))
    pixels = torch.arange(25)
    return ((ids[:, None] * 31 + pixels * 7 + (ids[:, None] >> 8)) % 251).to(torch.uint8).reshape(-1, *IMAGE_SHAPE)


def minibatch_of(ids, num_classes: int = 5) -> dict[str, torch.Tensor]:
    """{"image", "label", "sample_id"} of these ids; the label is id mod num_classes."""
    ids = np.asarray(ids, np.int64)
    return {"image": image_of(ids), "label": torch.from_numpy(ids % num_classes), "sample_id": torch.from_numpy(ids)}


def logits_of(ids) -> torch.Tensor:
    """float32 [B, 3]: a late field."""
    return torch.as_tensor(np.asarray(ids, np.float32))[:, None] * torch.tensor([1.0, 0.5, -2.0])


def offer_of(ids, round_: int = 0, *, num_classes: int = 5, seed: int = 0, strata=None) -> Offer:
    """What admission sees of these ids."""
    ids = np.asarray(ids, np.int64)
    strata = ids % num_classes if strata is None else np.asarray(strata, np.int64)
    return Offer(ids, strata, sample_keys(ids, seed), round_, {"image": image_of(ids)})
