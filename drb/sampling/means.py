"""Mean losses of strata that drift: what was rehearsed lately counts most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.sampling.feedback import Feedback
from drb.sampling.strata import StrataTable
from drb.types import Float64Array, Int64Array

FIRST_ROWS = 20  # of a stratum, whose mean loss is what later ones are compared with


class DriftingMeans:
    """The mean loss of each stratum. c rows whose mean is l move it by (1 − memory^c)(l − mean); the first ones set it.

    since_first: means are counted from the mean of about the first 20 rows of the stratum on.
    """

    def __init__(self, memory: float, *, since_first: bool = False) -> None:
        self._memory = memory
        self._since_first = since_first
        self._table = StrataTable(mean=0.0, first=0.0, rows=0.0)

    def observe(self, feedback: Feedback) -> None:
        """Take note of rehearsed rows."""
        table, num_rows = self._table, feedback.rows
        loss = feedback.loss / num_rows
        at = table.places(feedback.strata)
        before, mean = table["rows"][at], table["mean"][at]
        table["mean"][at] = np.where(before == 0, loss, mean + (1 - self._memory**num_rows) * (loss - mean))
        table["rows"][at] = before + num_rows
        if self._since_first:
            first = table["first"][at]
            later = before >= FIRST_ROWS
            table["first"][at] = np.where(later, first, first + (loss - first) * num_rows / (before + num_rows))

    def of(self, strata: Int64Array) -> Float64Array:
        """The mean of each of these strata, float64 [S]; that of all others for one of which no row is known."""
        table = self._table
        at = table.places(strata)
        is_known = table["rows"][at] > 0
        mean = table["mean"][at] - table["first"][at] if self._since_first else table["mean"][at]
        if is_known.all():
            return mean
        others = mean[is_known].mean() if is_known.any() else 1.0
        return np.where(is_known, mean, others)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as arrays."""
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._table.load_state_dict(state)
