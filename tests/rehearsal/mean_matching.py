"""What mean matching keeps, by brute force in float64: every exemplar that could go is tried."""

from __future__ import annotations

import numpy as np


class Reference:
    """Held samples as (stratum, vector [D], name), and all vectors that were offered of each stratum."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.held = []
        self.seen = {}

    def offer(self, samples):
        """Offer a minibatch of samples (stratum, vector, name); one goes after the other while there are too many."""
        for stratum, vector, name in samples:
            self.seen.setdefault(stratum, []).append(vector)
            if name not in self.names():
                self.held.append((stratum, vector, name))
        while len(self.held) > self.capacity:
            gone = self.least_needed()
            self.held = [sample for sample in self.held if sample is not gone]

    def least_needed(self):
        """Of the largest stratum (the last of equally large ones), that without which the mean is nearest."""
        strata = [stratum for stratum, _, _ in self.held]
        largest = max(strata, key=lambda stratum: (strata.count(stratum), stratum))
        members = [sample for sample in self.held if sample[0] == largest]
        return min(members, key=lambda gone: self.distance(largest, [s[1] for s in members if s is not gone]))

    def distance(self, stratum, vectors):
        """From the mean of these vectors to the mean of all that was offered of a stratum."""
        if not vectors:
            return 0.0
        return np.linalg.norm(np.mean(vectors, axis=0) - np.mean(self.seen[stratum], axis=0))

    def names(self):
        return sorted(name for _, _, name in self.held)


def flat(values):
    return values.double().flatten(1).numpy()
