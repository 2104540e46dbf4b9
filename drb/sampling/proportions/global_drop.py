"""Global drop (Klasson 2023, arXiv 2209.08660): replay tasks whose accuracy fell from the best that it ever was."""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import History
from drb.sampling.proportions.drop import Drop
from drb.types import BoolArray


class GlobalDrop(Drop):
    """Rehearse the tasks whose accuracy is at most `threshold` times their best one so far."""

    name = "global_drop"

    def fell(self, history: History) -> BoolArray:
        best = [max(row[task] for row in history[task:]) for task in range(len(history[-1]))]
        return np.array(history[-1]) <= self.threshold * np.array(best)
