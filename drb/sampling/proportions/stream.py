"""Stream: rank k weighted by the distinct samples it was offered.

Unbiased over the stream when ranks saw unequal shares of it: an exemplar of rank k stands for offered_k / stored_k
samples (Horvitz & Thompson 1952). With equal shares and equal buffers it is the uniform draw.
"""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import Proportions
from drb.types import Float64Array, Int64Array


class Stream(Proportions):
    """Weight each rank by the distinct samples that it was offered."""

    name = "stream"
    needs_offered = True

    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        cells_W1 = counts_WS.sum(axis=1, keepdims=True)
        # a rank that stores something was offered something, even if that was before its offers were counted
        return cells_W1, np.maximum(offered_W, cells_W1[:, 0]).astype(np.float64)
