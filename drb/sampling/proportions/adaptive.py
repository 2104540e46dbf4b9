"""Adaptive rehearsal: a bandit over the strata of the past, which draws by a Boltzmann distribution.

The reward of a stratum is the loss that rehearsing it shows: μ, a mean that drifts, of its rows' losses less what they
were before. A draw gives stratum k, which holds n of N exemplars, the share

    (1 − floor) · softmax(μ / temperature + log n) + floor · n / N

Without the floor it is unstable where few rows are rehearsed. What losses were before costs no forward: it is the mean
of the first 20 rows that were rehearsed of the stratum (`since=first`).
"""

from __future__ import annotations

import numpy as np

from drb.options import setting
from drb.sampling.means import DriftingMeans
from drb.sampling.proportions.base import with_floor
from drb.sampling.proportions.mean_losses import MeanLosses
from drb.types import Float64Array, Int64Array


class Adaptive(MeanLosses):
    """Draw strata whose losses have grown most, by a Boltzmann distribution with a floor.

    temperature: how much a loss must grow for e times the share
    floor:       the share of the draws that is uniform
    since:       losses count from those of the stratum's first rows on (first), or from 0 (zero)
    """

    name = "adaptive"
    temperature: float = setting(0.3, above=0)
    floor: float = setting(0.3, at_least=0, at_most=1)
    since: str = setting("first", one_of=("first", "zero"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = DriftingMeans(self.memory, since_first=self.since == "first")

    def weights(self, strata_S: Int64Array, sizes_S: Int64Array, step: int) -> Float64Array:
        power = self.means.of(strata_S) / self.temperature
        largest = np.max(power, where=sizes_S > 0, initial=-np.inf)
        return with_floor(np.exp(np.minimum(power - largest, 0.0)), sizes_S, self.floor)
