"""What must be true of draws, as statistics that the tests of the tests use too.

Draws of r distinct out of N vary less than independent ones: the chi-square statistic is multiplied by
(N - 1) / (N - r). Both tails count: a draw that is too even is no random draw.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

SMALLEST_P = 1e-4  # the seeds are fixed, so a passing test stays passing


def uniformity_p(draws: Sequence[Sequence[int]], population: Sequence[int]) -> float:
    """Two-sided p-value of 'every id of the population is equally likely', from draws of r distinct ids each."""
    counts = Counter(i for draw in draws for i in draw)
    assert set(counts) <= set(population), "an id was drawn that is not in the union"
    total, size = sum(counts.values()), len(population)
    r = total / len(draws)
    expected = total / size
    statistic = sum((counts[i] - expected) ** 2 / expected for i in population) * (size - 1) / (size - r)
    upper = float(stats.chi2.sf(statistic, size - 1))
    return 2 * min(upper, 1 - upper)


def independence_p(draws_a: Sequence[Sequence[int]], draws_b: Sequence[Sequence[int]], size: int) -> float:
    """Two-sided p-value of 'two ranks' draws are independent': their overlap is hypergeometric."""
    overlaps = [len(set(a) & set(b)) for a, b in zip(draws_a, draws_b, strict=True)]
    r = len(draws_a[0])
    mean = r * r / size
    variance = r * (r / size) * (1 - r / size) * (size - r) / (size - 1)
    z = (np.mean(overlaps) - mean) / math.sqrt(variance / len(overlaps))
    return float(2 * stats.norm.sf(abs(z)))
