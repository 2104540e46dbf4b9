"""Mean matching, as thin as a test can have it: admission that compares a vector field of what is stored.

Every class keeps the exemplars whose mean is nearest to the mean of all that was seen of it, whatever the order
(online herding; the decision is `choose`). All values are integers, so that sums in float64 are exact.
"""

from __future__ import annotations

import numpy as np

from drb.buffer.admission import NOTHING, Admission, Decision, fill_holes
from drb.buffer.admission.base import slots_for


def distance(kept, seen):
    """From the mean of the vectors [n, D] to the mean of all that was seen, given as (count, sum [D])."""
    return np.linalg.norm(np.sum(kept, axis=0) - len(kept) * seen[1] / seen[0])


def choose(held, sample, seen, capacity):
    """Which of `held` + [sample] goes; None: none. Each is (stratum, vector, name); seen: {stratum: (count, sum)}."""
    everyone = [*held, sample]
    if len(everyone) <= capacity:
        return None
    strata = [stratum for stratum, _, _ in everyone]
    largest = max(sorted(set(strata)), key=strata.count)
    members = [i for i, stratum in enumerate(strata) if stratum == largest]
    rest = [[everyone[j][1] for j in members if j != i] for i in members]
    return members[int(np.argmin([distance(kept, seen[largest]) for kept in rest]))]


class MeanMatching(Admission):
    """Reads `field`; its state is what was seen of each class, and the sum of what is stored of it."""

    needs_strata = True
    field: str = "image"

    def __post_init__(self):
        super().__post_init__()
        self.seen = {}
        self.kept_sum = {}

    @property
    def reads(self):
        return (self.field,)

    def admit(self, columns, offer):
        vectors = flat(offer.fields[self.field])
        held = [
            (stratum, vector, ("slot", slot))
            for slot, (stratum, vector) in enumerate(
                zip(columns.stratum[: columns.size].tolist(), self._stored(columns), strict=True)
            )
        ]
        for row in np.flatnonzero(columns.is_new(offer.sample_id)).tolist():
            stratum = int(offer.stratum[row])
            count, total = self.seen.get(stratum, (0, 0))
            self.seen[stratum] = (count + 1, total + vectors[row])
            sample = (stratum, vectors[row], ("row", row))
            gone = choose(held, sample, self.seen, columns.capacity)
            held.append(sample)
            if gone is not None:
                del held[gone]
        rows = np.array([i for _, _, (kind, i) in held if kind == "row"], np.int64)
        if not len(rows):
            return NOTHING
        stay = [i for _, _, (kind, i) in held if kind == "slot"]
        evicted = np.setdiff1d(np.arange(columns.size), stay)
        self._add(columns.stratum[evicted], columns.stored(self.field, evicted), -1)
        self._add(offer.stratum[rows], offer.fields[self.field][rows], 1)
        return Decision(rows, slots_for(columns, len(rows), evicted))

    def insert(self, columns, offer):
        self._add(offer.stratum, offer.fields[self.field], 1)
        return super().insert(columns, offer)

    def remove(self, columns, slots):
        self._add(columns.stratum[slots], columns.stored(self.field, slots), -1)
        return fill_holes(columns.size, slots)

    def state_dict(self):
        strata = sorted(self.seen)
        return {
            "strata": np.array(strata, np.int64),
            "counts": np.array([self.seen[s][0] for s in strata], np.int64),
            "seen": np.array([self.seen[s][1] for s in strata]),
            "kept": np.array([self.kept_sum.get(s, 0 * self.seen[s][1]) for s in strata]),
        }

    def load_state_dict(self, state):
        rows = list(zip(*(state[name] for name in ("strata", "counts", "seen", "kept")), strict=True))
        self.seen = {int(stratum): (int(count), seen.copy()) for stratum, count, seen, _ in rows}
        self.kept_sum = {int(stratum): kept.copy() for stratum, _, _, kept in rows}

    def reshard(self, gathered, states, capacity):
        """The first by key stay; what was seen is what all have seen."""
        merged = MeanMatching(field=self.field)
        for state in states:
            for stratum, count, seen in zip(state["strata"].tolist(), state["counts"], state["seen"], strict=True):
                before = merged.seen.get(stratum, (0, 0))
                merged.seen[stratum] = (int(before[0] + count), before[1] + seen)
        stays = np.sort(np.argsort(gathered.key)[:capacity])
        merged._add(gathered.stratum[stays], gathered.stored(self.field, stays), 1)
        return stays, merged.state_dict()

    def _stored(self, columns):
        return flat(columns.stored(self.field, np.arange(columns.size)))

    def _add(self, strata, fields, sign):
        for stratum, vector in zip(strata.tolist(), flat(fields), strict=True):
            self.kept_sum[stratum] = self.kept_sum.get(stratum, 0) + sign * vector


def flat(values):
    return values.double().flatten(1).numpy()
