"""Loss-aware rehearsal: the higher the loss of a stratum's rehearsed rows, the more of it is rehearsed.

A stratum's weight is the number of its exemplars times its mean loss, which drifts: c rows with the mean loss l move it
by (1 − memory^c)(l − mean). A stratum that was not rehearsed yet has the mean of the others.
"""

from __future__ import annotations

import numpy as np

from drb.options import setting
from drb.sampling.proportions.base import with_floor
from drb.sampling.proportions.mean_losses import MeanLosses
from drb.types import Float64Array, Int64Array


class LossAware(MeanLosses):
    """Weight each stratum by its exemplars times their mean loss.

    floor:  the share of the draws that is uniform, so that a stratum whose loss was low is looked at again
    """

    name = "loss_aware"
    floor: float = setting(0.1, at_least=0, at_most=1)

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        return with_floor(np.maximum(self.means.of(strata_S), 0.0), sizes_S, self.floor)
