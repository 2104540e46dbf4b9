"""Loss-aware rehearsal: the higher the loss of a stratum's rehearsed rows, the more of it is rehearsed.

A stratum's weight is the number of its exemplars times its mean loss, which drifts: c rows with the mean loss l move it
by (1 − memory^c)(l − mean). A stratum that was not rehearsed yet has the mean of the others.
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


class LossAware(StratumWeights):
    """Weight each stratum by its exemplars times their mean loss.

    memory: how much of a stratum's mean loss is kept when one more of its rows was rehearsed
    floor:  the share of the draws that is uniform, so that a stratum whose loss was low is looked at again
    """

    name = "loss_aware"
    needs_feedback = True
    memory: float = setting(0.9, at_least=0, below=1)
    floor: float = setting(0.1, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._means = DriftingMeans(self.memory)

    def observe(self, feedback: Feedback) -> None:
        self._means.observe(feedback)

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        return with_floor(np.maximum(self._means.of(strata_S), 0.0), sizes_S, self.floor)

    def state_dict(self) -> dict[str, Any]:
        return self._means.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._means.load_state_dict(state)
