"""Uniform: every exemplar of the union is equally likely. One group; no strata needed."""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import Proportions
from drb.types import Float64Array, Int64Array

_ONE: Float64Array = np.ones(1)


class Uniform(Proportions):
    """Draw every exemplar of the union with equal probability."""

    name = "uniform"

    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        return counts_WS.sum(axis=1)[None] if counts_WS.shape[1] != 1 else counts_WS.T, _ONE
