"""What a way of sharing rehearsed exemplars among the parts of the union is asked, and what it needs to know.

Letters: W ranks, S strata, G groups, C cells of a group (a cell = one stratum on one rank).
"""

from __future__ import annotations

import abc
from typing import ClassVar

from drb.types import Float64Array, Int64Array
from drb.variant import Variant


class Proportions(Variant):
    """Turns counts into groups: parts of the union inside which every exemplar is equally likely, each with a weight.

    needs_strata: exemplars must be counted per stratum (S > 1), so that records must have a field for them.
    needs_offered: each rank's distinct offered samples must be counted.
    """

    needs_strata: ClassVar[bool] = False
    needs_offered: ClassVar[bool] = False

    @abc.abstractmethod
    def groups(self, counts_WS: Int64Array, offered_W: Int64Array) -> tuple[Int64Array, Float64Array]:
        """The groups of the union and their weights, alike on all ranks: a pure function.

        Args:
            counts_WS: stored exemplars, int64 [W, S].
            offered_W: distinct samples that each rank was offered, int64 [W]; zeros unless needs_offered.
        Returns:
            Exemplars in the cells of each group, int64 [G, C], and weights, float64 [G].
        """
