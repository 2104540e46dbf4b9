"""Local drop (Klasson 2023, arXiv 2209.08660): replay tasks whose accuracy fell while the last task was learnt."""

from __future__ import annotations

import numpy as np

from drb.sampling.proportions.base import History
from drb.sampling.proportions.drop import Drop
from drb.types import BoolArray


class LocalDrop(Drop):
    """Rehearse the tasks whose accuracy is at most `threshold` times what it was one task before.

    The last task was not evaluated before, so it is not among them.
    """

    name = "local_drop"

    def fell(self, history: History) -> BoolArray:
        before = np.array([*history[-2], np.nan]) if len(history) > 1 else np.array([np.nan])
        return np.array(history[-1]) <= self.threshold * before
