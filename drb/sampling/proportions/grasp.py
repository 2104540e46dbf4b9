"""From easy to hard, as GRASP (Harun et al. 2023, arXiv 2308.13646), by the losses of strata, not distances to means.

Strata are ordered by the mean loss of their rehearsed rows. In `steps` steps the draws move from the easiest to the
hardest, and then begin anew: a stratum whose exemplars are in the middle q of all exemplars in that order, 0 to 1, has
the weight n · exp(−((q − t) / width)² / 2) at the share t of the way.
"""

from __future__ import annotations

import numpy as np

from drb.options import setting
from drb.sampling.proportions.base import with_floor
from drb.sampling.proportions.mean_losses import MeanLosses
from drb.types import Float64Array, Int64Array


class Grasp(MeanLosses):
    """Rehearse easy strata first, then harder ones.

    steps:  from the easiest stratum to the hardest
    width:  how far around the present place is rehearsed, as a share of all exemplars
    floor:  the share of the draws that is uniform, from which the losses of all strata are known
    """

    name = "grasp"
    steps: int = setting(1000, at_least=1)
    width: float = setting(0.25, above=0)
    floor: float = setting(0.1, at_least=0, at_most=1)

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        order = np.argsort(self.means.of(strata_S), kind="stable")
        sizes = sizes_S[order]
        middle = np.empty(len(order))
        middle[order] = (np.cumsum(sizes) - sizes / 2) / max(1, int(sizes.sum()))
        away = (middle - step % self.steps / self.steps) / self.width
        return with_floor(np.exp(-0.5 * away * away), sizes_S, self.floor)
