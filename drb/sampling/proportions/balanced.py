"""Balanced: every stratum that holds an exemplar gets the same share; inside it, every exemplar is equally likely."""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import Proportions
from drb.types import Float64Array, Int64Array


class Balanced(Proportions):
    """Give every stratum that holds an exemplar the same share."""

    name = "balanced"
    needs_strata = True

    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        return np.ascontiguousarray(counts_WS.T), np.ones(counts_WS.shape[1])
