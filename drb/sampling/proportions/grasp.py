"""From easy to hard, as GRASP (Harun et al. 2023, arXiv 2308.13646), by the losses of strata, not distances to means.

Strata are ordered by the mean loss of their rehearsed rows. In `steps` steps the draws move from the easiest to the
hardest, and then begin anew: a stratum whose exemplars are in the middle q of all exemplars in that order, 0 to 1, has
the weight n · exp(−((q − t) / width)² / 2) at the share t of the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.options import setting
from drb.sampling.feedback import Feedback
from drb.sampling.means import DriftingMeans
from drb.sampling.proportions.base import StratumWeights, with_floor
from drb.types import Float64Array, Int64Array


class Grasp(StratumWeights):
    """Rehearse easy strata first, then harder ones.

    steps:  from the easiest stratum to the hardest
    width:  how far around the present place is rehearsed, as a share of all exemplars
    memory: how much of a stratum's mean loss is kept when one more of its rows was rehearsed
    floor:  the share of the draws that is uniform, from which the losses of all strata are known
    """

    name = "grasp"
    needs_feedback = True
    steps: int = setting(1000, at_least=1)
    width: float = setting(0.25, above=0)
    memory: float = setting(0.9, at_least=0, below=1)
    floor: float = setting(0.1, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._means = DriftingMeans(self.memory)

    def observe(self, feedback: Feedback) -> None:
        self._means.observe(feedback)

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        order = np.argsort(self._means.of(strata_S), kind="stable")
        sizes = sizes_S[order]
        middle = np.empty(len(order))
        middle[order] = (np.cumsum(sizes) - sizes / 2) / max(1, int(sizes.sum()))
        away = (middle - step % self.steps / self.steps) / self.width
        return with_floor(np.exp(-0.5 * away * away), sizes_S, self.floor)

    def state_dict(self) -> dict[str, Any]:
        return self._means.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._means.load_state_dict(state)
