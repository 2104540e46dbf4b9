"""Numbers that are kept for each stratum, found by the stratum's value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.types import Float64Array, Int64Array

Places = Int64Array | slice


class StrataTable:
    """Columns of float64 [S], a number for each stratum. A stratum that is new begins with each column's first value.

    strata: int64 [S], ascending.
    """

    def __init__(self, **first: float) -> None:
        self.strata: Int64Array = np.empty(0, np.int64)
        self._first = first
        self._columns: dict[str, Float64Array] = {name: np.empty(0) for name in first}

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, column: str) -> Float64Array:
        return self._columns[column]

    def places(self, strata: Int64Array) -> Places:
        """Where these strata are, distinct and ascending as they must be; unknown ones are added."""
        known = self.strata
        if len(known) == len(strata) and (known is strata or np.array_equal(known, strata)):
            return slice(None)
        at = known.searchsorted(strata)
        if len(known) and np.array_equal(known[np.minimum(at, len(known) - 1)], strata):
            return at
        self._add(strata)
        return self.strata.searchsorted(strata)

    def _add(self, strata: Int64Array) -> None:
        before, self.strata = self.strata, np.union1d(self.strata, strata)
        at = self.strata.searchsorted(before)
        for name, column in self._columns.items():
            wider = np.full(len(self.strata), self._first[name], np.float64)
            wider[at] = column
            self._columns[name] = wider

    def state_dict(self) -> dict[str, Any]:
        """Return the strata and the columns, copied."""
        return {"strata": self.strata.copy(), **{name: column.copy() for name, column in self._columns.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: other columns, or of other lengths.
        """
        strata = np.asarray(state["strata"])
        columns = {name: np.array(state[name], np.float64) for name in self._first}
        is_sound = strata.dtype == np.int64 and strata.ndim == 1 and bool((np.diff(strata) > 0).all())
        if not is_sound or any(column.shape != strata.shape for column in columns.values()):
            raise ValueError("the rehearsal state is damaged: what its proportions have observed cannot be")
        if not all(np.isfinite(column).all() for column in columns.values()):
            raise ValueError("the rehearsal state is damaged: what its proportions have observed is not finite")
        self.strata, self._columns = strata.copy(), columns
