"""Class-balanced reservoir: a keyed reservoir per stratum, with quotas that shrink as strata appear.

While there is room everything is stored. Then the largest strata give way, each dropping its largest keys, until
the counts are level (CBRS of Chrysakis & Moens, ICML 2020, with keys in place of coin flips). Strata with fewer
samples than their quota leave the rest to the others. The number of strata is not needed up front. Each stratum
has its own threshold τ, so inside a stratum the law is that of the keyed reservoir.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.buffer.admission.base import (
    REFILLS,
    Admission,
    Gathered,
    State,
    fill_holes,
    is_ascending,
    require_state,
    slots_for,
)
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.options import setting
from drb.types import BoolArray, Int64Array, UInt64Array


class ClassBalanced(Admission):
    """Keep equally many exemplars of each class, a uniform sample within a class.

    The state is one threshold per stratum that ever dropped an exemplar.

    refill: recent: removing exemplars lifts the thresholds, so that whatever is offered next takes the free slots.
    """

    name = "class_balanced"
    needs_strata = True
    refill: str = setting("none", one_of=REFILLS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._strata: Int64Array = np.empty(0, np.int64)
        self._thresholds: UInt64Array = np.empty(0, np.uint64)

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        rows = np.flatnonzero(self._below_threshold(offer))
        rows = rows[columns.is_new(offer.sample_id[rows])]
        if not rows.size:
            return NOTHING
        overflow = columns.size + rows.size - columns.capacity
        if overflow <= 0:
            return Decision(rows, slots_for(columns, rows.size, NOTHING.slots))
        return self._displace(columns, offer, rows)

    def _displace(self, columns: Columns, offer: Offer, rows: Int64Array) -> Decision:
        strata = np.concatenate((columns.stratum[: columns.size], offer.stratum[rows]))
        keys = np.concatenate((columns.key[: columns.size], offer.key[rows]))
        stays, thresholds = level(strata, keys, columns.capacity)
        for value, threshold in thresholds.items():
            self._lower_threshold(value, threshold)
        evicted = np.flatnonzero(~stays[: columns.size])
        rows = rows[stays[columns.size :]]
        return Decision(rows, slots_for(columns, rows.size, evicted))

    def _below_threshold(self, offer: Offer) -> BoolArray:
        if not len(self._strata):
            return np.ones(len(offer), np.bool_)
        at = np.minimum(np.searchsorted(self._strata, offer.stratum), len(self._strata) - 1)
        below: BoolArray = (self._strata[at] != offer.stratum) | (offer.key < self._thresholds[at])
        return below

    def _lower_threshold(self, stratum: int, key: np.uint64) -> None:
        at = int(np.searchsorted(self._strata, stratum))
        if at < len(self._strata) and self._strata[at] == stratum:
            self._thresholds[at] = min(self._thresholds[at], key)
        else:
            self._strata = np.insert(self._strata, at, stratum)
            self._thresholds = np.insert(self._thresholds, at, key)

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        if self.refill == "recent":
            self._strata, self._thresholds = self._strata[:0], self._thresholds[:0]
        return fill_holes(columns.size, slots)

    def state_dict(self) -> dict[str, Any]:
        return {"strata": self._strata.copy(), "thresholds": self._thresholds.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        strata, thresholds = state["strata"], state["thresholds"]
        require_state(is_ascending(strata) and thresholds.dtype == np.uint64, "thresholds")
        require_state(thresholds.shape == strata.shape, "thresholds")
        self._strata, self._thresholds = strata.copy(), thresholds.copy()

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        """Level counts, in each stratum the smallest keys; each τ the smallest of all thresholds and keys that go."""
        merged = ClassBalanced()
        for state in states:
            for value, threshold in zip(state["strata"].tolist(), state["thresholds"], strict=True):
                merged._lower_threshold(value, threshold)
        stays, thresholds = level(gathered.stratum, gathered.key, capacity)
        for value, threshold in thresholds.items():
            merged._lower_threshold(value, threshold)
        return np.flatnonzero(stays), merged.state_dict()


def level(strata: Int64Array, keys: UInt64Array, capacity: int) -> tuple[BoolArray, dict[int, np.uint64]]:
    """Which exemplars stay so that at most `capacity` do, with level counts and the smallest keys of each stratum.

    Args:
        strata, keys: of the exemplars, int64 and uint64 [n].
    Returns:
        bool [n], and the smallest key that goes of each stratum that gives one up.
    """
    stays = np.ones(len(keys), np.bool_)
    smallest_gone: dict[int, np.uint64] = {}
    for value, surplus in surplus_of_strata(strata, capacity).items():  # strata, not samples
        members = np.flatnonzero(strata == value)
        quota = len(members) - surplus
        gone = members[np.argpartition(keys[members], quota)[quota:]]
        stays[gone] = False
        smallest_gone[value] = keys[gone].min()
    return stays, smallest_gone


def surplus_of_strata(strata: Int64Array, capacity: int) -> dict[int, int]:
    """How many exemplars each stratum gives up so that at most `capacity` stay, with level counts; only those that do.

    strata: of the exemplars, int64 [n].
    """
    if len(strata) <= capacity:
        return {}
    values, counts = np.unique(strata, return_counts=True)
    surplus = counts - level_quotas(counts, capacity)
    return {value: count for value, count in zip(values.tolist(), surplus.tolist(), strict=True) if count}


def level_quotas(counts: Int64Array, capacity: int) -> Int64Array:
    """How many each stratum keeps so that `capacity` is full and counts are level: int64 [S].

    Every stratum keeps min(count, level); what is left over by rounding goes to the first strata above the level.
    Needs sum(counts) >= capacity.
    """
    ascending = np.sort(counts)
    # with the i smallest strata kept whole, the others share what is left
    left = capacity - np.concatenate(([0], np.cumsum(ascending)[:-1]))
    levels = left // np.arange(len(counts), 0, -1)
    whole = int(np.argmax(levels < ascending)) if (levels < ascending).any() else len(counts) - 1
    quotas = np.minimum(counts, max(int(levels[whole]), 0))
    above = np.flatnonzero(counts > quotas)
    quotas[above[: capacity - int(quotas.sum())]] += 1
    return quotas
