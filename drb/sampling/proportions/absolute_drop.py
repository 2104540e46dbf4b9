"""Absolute threshold (Klasson 2023, arXiv 2209.08660): replay tasks whose accuracy is low."""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import History
from drb.sampling.proportions.drop import Drop
from drb.types import BoolArray


class AbsoluteDrop(Drop):
    """Rehearse the tasks whose accuracy is at most `threshold`."""

    name = "absolute_drop"

    def fell(self, history: History) -> BoolArray:
        return np.array(history[-1]) <= self.threshold
