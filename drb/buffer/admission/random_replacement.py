"""Random replacement: the policy of arXiv 2406.03285, for comparison.

One sub-buffer per stratum, of equal quotas floor(M / strata seen). Each sample is a candidate with probability
c / b; a candidate takes a free slot of its stratum's sub-buffer, or overwrites a random one. When a stratum
appears, the others' quotas shrink and random exemplars of theirs make room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.buffer.admission.base import Admission, Gathered, State, fill_holes, is_ascending, require_state, slots_for
from drb.buffer.admission.class_balanced import level
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.options import required
from drb.seeding import RoundGenerator
from drb.types import Int64Array


class RandomReplacement(Admission):
    """Overwrite random exemplars of the same class (arXiv 2406.03285).

    candidates: the expected number of samples of a minibatch that are considered (the paper's c).
    """

    name = "random_replacement"
    needs_strata = True
    refills_always = True
    candidates: int = required(at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._strata: Int64Array = np.empty(0, np.int64)

    def begin(self, seed: int, rank: int) -> None:
        self._rng = RoundGenerator(seed, "random_replacement", rank)

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        if not len(offer):
            return NOTHING
        rng = self._rng.at(offer.round)
        rows = np.flatnonzero(rng.random(len(offer)) < self.candidates / len(offer))
        rows = rows[columns.is_new(offer.sample_id[rows])]
        if not rows.size:
            return NOTHING
        self._strata = np.union1d(self._strata, offer.stratum[rows])
        quota = max(1, columns.capacity // len(self._strata))
        stored = columns.stratum[: columns.size]
        kept: list[Int64Array] = []
        evicted: list[Int64Array] = []
        for value in np.unique(offer.stratum[rows]):  # strata, not samples
            arriving = rng.permutation(rows[offer.stratum[rows] == value])[:quota]
            members = np.flatnonzero(stored == value)
            surplus = min(len(members) + len(arriving) - quota, len(members))
            if surplus > 0:
                evicted.append(rng.choice(members, surplus, replace=False))
            kept.append(arriving)
        chosen, gone = np.sort(np.concatenate(kept)), np.concatenate([*evicted, NOTHING.slots])
        return self._fit(columns, chosen, gone, quota, rng)

    def _fit(
        self, columns: Columns, rows: Int64Array, evicted: Int64Array, quota: int, rng: np.random.Generator
    ) -> Decision:
        """Evict what strata hold beyond their quota until the admitted rows fit, or admit fewer of them."""
        if len(evicted) > len(rows):  # a quota that shrank by more than arrived: the rest shrinks as samples arrive
            evicted = evicted[: len(rows)]
        lacking = columns.size - len(evicted) + len(rows) - columns.capacity
        if lacking > 0:
            staying = rng.permutation(np.setdiff1d(np.arange(columns.size), evicted))
            above = _beyond_quota(staying, columns.stratum[staying], quota)
            eligible = above if above.size else staying
            more = rng.choice(eligible, min(lacking, len(eligible)), replace=False)
            evicted = np.concatenate((evicted, more))
            rows = rows[: len(rows) - (lacking - len(more))]
        return Decision(rows, slots_for(columns, len(rows), evicted))

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        return fill_holes(columns.size, slots)

    def state_dict(self) -> dict[str, Any]:
        return {"strata": self._strata.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require_state(is_ascending(state["strata"]), "strata")
        self._strata = state["strata"].copy()

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        """Level counts; in each stratum those with the smallest keys, which are as good as random, stay."""
        stays, _ = level(gathered.stratum, gathered.key, capacity)
        strata = np.unique(np.concatenate([state["strata"] for state in states]))
        return np.flatnonzero(stays), {"strata": strata.astype(np.int64)}


def _beyond_quota(slots: Int64Array, strata: Int64Array, quota: int) -> Int64Array:
    """What each stratum holds beyond its quota: its last slots, in the given order."""
    grouped = np.argsort(strata, kind="stable")
    _, first, counts = np.unique(strata[grouped], return_index=True, return_counts=True)
    place = np.arange(len(slots)) - np.repeat(first, counts)
    return slots[grouped[place >= quota]]
