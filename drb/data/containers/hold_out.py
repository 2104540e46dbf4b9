"""Test samples of a collection that has none of its own."""

from __future__ import annotations

import numpy as np

from drb.seeding import mix64
from drb.types import BoolArray, Int64Array


def held_out(sample_ids: Int64Array, fraction: float) -> BoolArray:
    """Which samples are test samples, bool [n]: those whose ids hash below `fraction`, but at least one.

    So a sample stays on its side when others come or go.

    Raises:
        ValueError: there is only one sample.
    """
    if len(sample_ids) < 2:
        raise ValueError("one sample cannot be divided into training and test samples; give a test split")
    hashed = mix64(sample_ids.astype(np.uint64))
    is_test: BoolArray = hashed < np.uint64(int(fraction * 2**64))
    if not is_test.any() or is_test.all():
        is_test = np.zeros(len(sample_ids), np.bool_)
        is_test[np.argsort(hashed)[: min(max(1, round(fraction * len(hashed))), len(hashed) - 1)]] = True
    return is_test
