"""What a rehearsal buffer should hold, in plain Python: dicts and sorting, nothing shared with drb but the keys.

A model has `stored`, {sample id: (stratum, key, round admitted)}, the staged minibatch included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

Entry = tuple[int, int, int]


class Model:
    """offer(entries): a minibatch in order, as (id, (stratum, key, round)); ids may come twice, the first counts."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.stored: dict[int, Entry] = {}
        self.denied: set[int] = set()

    def forget(self, samples: Sequence[int]) -> None:
        """Thresholds stay: what was turned away before has not become welcome."""
        self.denied.update(samples)
        self.stored = {sample: entry for sample, entry in self.stored.items() if sample not in self.denied}

    def new(self, entries: Sequence[tuple[int, Entry]]) -> dict[int, Entry]:
        fresh: dict[int, Entry] = {}
        for sample, entry in entries:
            if sample not in self.stored and sample not in self.denied:
                fresh.setdefault(sample, entry)
        return fresh

    def offer(self, entries: Sequence[tuple[int, Entry]]) -> None:
        raise NotImplementedError

    def check_state(self, state: dict) -> None:
        """Of the policy."""


class ReservoirModel(Model):
    """The smallest keys stay; τ is the smallest key that ever went or was turned away."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.threshold = (1 << 64) - 1

    def offer(self, entries):
        below = [(sample, entry) for sample, entry in entries if entry[1] < self.threshold]
        pool = self.stored | self.new(below)
        ordered = sorted(pool, key=lambda sample: pool[sample][1])
        self.stored = {sample: pool[sample] for sample in ordered[: self.capacity]}
        self.threshold = min([self.threshold, *(pool[sample][1] for sample in ordered[self.capacity :])])

    def check_state(self, state):
        assert int(state["threshold"]) == self.threshold


class ClassBalancedModel(Model):
    """Level counts, in each stratum the smallest keys; a threshold per stratum that gave one up."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.thresholds: dict[int, int] = {}

    def offer(self, entries):
        below = [(s, e) for s, e in entries if e[0] not in self.thresholds or e[1] < self.thresholds[e[0]]]
        pool = self.stored | self.new(below)
        groups = defaultdict(list)
        for sample in sorted(pool, key=lambda sample: pool[sample][1]):
            groups[pool[sample][0]].append(sample)
        quotas, left = dict.fromkeys(groups, 0), min(self.capacity, len(pool))
        while left:  # one each in turn, lowest stratum first
            for stratum in sorted(groups):
                if left and quotas[stratum] < len(groups[stratum]):
                    quotas[stratum] += 1
                    left -= 1
        self.stored = {}
        for stratum, samples in groups.items():
            self.stored |= {sample: pool[sample] for sample in samples[: quotas[stratum]]}
            gone = [pool[sample][1] for sample in samples[quotas[stratum] :]]
            if gone:
                self.thresholds[stratum] = min([*gone, self.thresholds.get(stratum, 1 << 64)])

    def check_state(self, state):
        thresholds = zip(state["strata"].tolist(), state["thresholds"].tolist(), strict=True)
        assert dict(thresholds) == self.thresholds


class FifoModel(Model):
    """The last ones that were new."""

    def offer(self, entries):
        pool = [*self.stored.items(), *self.new(entries).items()]
        self.stored = dict(pool[-self.capacity :])


class RandomModel(Model):
    """Which ones is chance; `follow` checks what any choice must satisfy, and takes it over."""

    def offer(self, entries):
        self.offered = self.new(entries)

    def follow(self, ids: list[int]) -> None:
        pool = self.stored | self.offered
        assert len(set(ids)) == len(ids) <= self.capacity
        assert set(ids) <= pool.keys()
        admitted, evicted = set(ids) - self.stored.keys(), self.stored.keys() - set(ids)
        assert len(evicted) <= len(admitted)  # nothing goes without something coming
        self.stored = {sample: pool[sample] for sample in ids}


MODELS = {
    "reservoir": ReservoirModel,
    "class_balanced": ClassBalancedModel,
    "random_replacement": RandomModel,
    "fifo": FifoModel,
}
