"""Whose turn it is: sources served by integer shares, so that no prefix is a sample off.

After t samples a source with share w of D is due t·w/D of them. Tijdeman's rule (The chairman assignment problem,
Discrete Mathematics 32, 1980) keeps every one of k sources within 1 - 1/(2k - 2) of that, at every t: the source's
sample number j may come once 1/(2k - 2) more than j are due, must come before more than 1 - 1/(2k - 2) would be owed,
and among those that may come the one with the earliest deadline does. All is in integers, and after D samples nothing
is owed, so one period is a table for the whole run.

Letters: k sources with a share, w the share of one, D the sum of the shares.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Real

import numpy as np

from drb.types import Int64Array

LONGEST_PERIOD = 1 << 22
MOST_SOURCES = 256


def integer_shares(shares: Mapping[str, int | float]) -> dict[str, int]:
    """The smallest integers in these proportions, by source.

    Args:
        shares: integers in any proportion, or fractions that sum to 1: as they are written in decimals, or as the
            simplest fraction that is rounded to them (0.3333333333333333 is 1/3). Numbers of NumPy will do. A source
            with share 0 is not served.
    Raises:
        ValueError: a share is negative or not finite, all are 0, fractions do not sum to 1, or the integers sum to more
            than `LONGEST_PERIOD`.
    """
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, Real) or not math.isfinite(share) or share < 0:
            raise ValueError(f"the share of source {name!r} must be a number of at least 0, got {share!r}")
    exact = _exact(shares)
    total = sum(exact.values())
    if not total:
        raise ValueError(f"at least one source needs a share above 0, got {_listed(shares)}")
    if any(share.denominator > 1 for share in exact.values()) and total != 1:
        raise ValueError(
            f"shares that are fractions must sum to 1, got {_listed(shares)}, which sum to {_in_full(total)}; "
            "mend them, or write integers in any proportion"
        )
    denominator = _period(exact)
    whole = {name: int(share * denominator) for name, share in exact.items()}
    divisor = math.gcd(*whole.values())
    reduced = {name: share // divisor for name, share in whole.items()}
    if sum(reduced.values()) > LONGEST_PERIOD:
        raise ValueError(
            f"the shares {_listed(shares)} repeat after {sum(reduced.values())} samples only, and at most "
            f"{LONGEST_PERIOD} are allowed; round them to numbers with a common divisor"
        )
    if sum(share > 0 for share in reduced.values()) > MOST_SOURCES:
        raise ValueError(f"at most {MOST_SOURCES} sources can be mixed at a time, got {len(reduced)}")
    return reduced


@functools.lru_cache(maxsize=16)
def period(shares: tuple[int, ...]) -> tuple[Int64Array, ...]:
    """When each source is served in one period of D samples: by source, ascending positions in [0, D), int64 [w].

    Args:
        shares: integers without a common divisor, at least one above 0.
    """
    total, served = sum(shares), sum(share > 0 for share in shares)
    if served == 1:
        return tuple(np.arange(share) for share in shares)
    turns = _earliest_deadline_first(shares, total, 2 * served - 2)
    return tuple(np.flatnonzero(turns == source) for source in range(len(shares)))


def _earliest_deadline_first(shares: Sequence[int], total: int, slack: int) -> Int64Array:
    """The source of each position, int64 [D]. slack: 2k - 2."""
    releases, deadlines, sources = [], [], []
    for source, share in enumerate(shares):
        if share:
            due = np.arange(share, dtype=np.int64) * slack
            releases.append(-(-total * (due + 1) // (slack * share)))
            deadlines.append(total * (due + slack - 1) // (slack * share) + 1)
            sources.append(np.full(share, source, np.int64))
    release = np.concatenate(releases)
    order = np.argsort(release, kind="stable")
    jobs = (np.concatenate(deadlines) * len(shares) + np.concatenate(sources))[order].tolist()
    counts = np.searchsorted(release[order], np.arange(1, total + 1), side="right").tolist()
    waiting: list[int] = []
    turns, known = [], 0
    for count in counts:
        for job in jobs[known:count]:
            heapq.heappush(waiting, job)
        known = count
        turns.append(heapq.heappop(waiting))  # never empty: Tijdeman 1980
    return np.array(turns, np.int64) % len(shares)


def most_owed(positions: Int64Array, share: int, total: int, length: int) -> float:
    """How far a source is off its share at worst, in samples, in the first `length` samples of a period.

    Args:
        positions: of the source in the period, int64 [w].
    """
    if not length:
        return 0.0
    served = positions[positions < length]
    counts = np.arange(len(served))
    before, after = served * share - counts * total, (served + 1) * share - (counts + 1) * total
    end = length * share - len(served) * total
    return float(max(np.abs(before).max(initial=0), np.abs(after).max(initial=0), abs(end))) / total


def _exact(shares: Mapping[str, int | float]) -> dict[str, Fraction]:
    """The shares that a user means: as they are written, unless only the simplest fractions make a mix."""
    written = {name: Fraction(str(share)) for name, share in shares.items()}
    if all(share.denominator == 1 for share in written.values()):
        return written
    readings = [written, {name: _simplest(share) for name, share in shares.items()}]
    return next((each for each in readings if sum(each.values()) == 1 and _period(each) <= LONGEST_PERIOD), written)


def _period(fractions: Mapping[str, Fraction]) -> int:
    return math.lcm(*(share.denominator for share in fractions.values()))


def _simplest(share: int | float) -> Fraction:
    """The simplest fraction that rounds to a share in the share's own type; as it is written if none is simple."""
    value = Fraction(float(share))
    simpler = (value.limit_denominator(1 << bits) for bits in range(LONGEST_PERIOD.bit_length()))
    return next((each for each in simpler if type(share)(float(each)) == share), Fraction(str(share)))


def _in_full(total: Fraction) -> str:
    """A sum that is not 1, so that one sees it."""
    shown = f"{float(total):g}"
    return shown if shown != "1" else f"1 {'-' if total < 1 else '+'} {float(abs(total - 1)):.1g}"


def _listed(shares: Mapping[str, int | float]) -> str:
    return ", ".join(f"{name}={share}" for name, share in shares.items()) or "none"
