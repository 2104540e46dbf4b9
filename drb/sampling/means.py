"""Mean losses of strata that drift: what was rehearsed lately counts most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.sampling.feedback import Feedback
from drb.sampling.strata import StrataTable
from drb.types import Float64Array, Int64Array


class DriftingMeans:
    """The mean loss of each stratum. c rows whose mean is l move it by (1 − memory^c)(l − mean); the first ones set it.

    from_first: losses are counted from the mean of a stratum's first rows on, so that all means begin at 0.
    """

    def __init__(self, memory: float, *, from_first: bool = False) -> None:
        self._memory = memory
        self._from_first = from_first
        self._table = StrataTable(mean=0.0, first=0.0, is_known=0.0)

    def observe(self, feedback: Feedback) -> None:
        """Take note of rehearsed rows."""
        table, loss = self._table, feedback.loss / feedback.rows
        at = table.places(feedback.strata)
        is_new = table["is_known"][at] == 0
        if self._from_first:
            table["first"][at] = np.where(is_new, loss, table["first"][at])
            loss = loss - table["first"][at]
        before = table["mean"][at]
        table["mean"][at] = np.where(is_new, loss, before + (1 - self._memory**feedback.rows) * (loss - before))
        table["is_known"][at] = 1.0

    def of(self, strata: Int64Array) -> Float64Array:
        """The mean of each of these strata, float64 [S]; that of all others for one of which no row is known."""
        table = self._table
        at = table.places(strata)
        is_known, mean = table["is_known"][at], table["mean"][at]
        num_known = is_known.sum()
        if num_known == len(mean):
            return mean
        others = (mean @ is_known) / num_known if num_known else 1.0
        return np.where(is_known > 0, mean, others)

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state)
