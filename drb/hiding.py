"""When is a round hidden? When it ends before the training step does that runs meanwhile.

Both take longer with more exemplars: the round has r rows to fetch, the step trains on b + r rows. Over the few r that
matter both are straight lines, measured at two r each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE = 0.8  # of a step that a round may take: neither takes equally long every time


@dataclass(frozen=True)
class Line:
    """Seconds as a function of r: start + slope · r."""

    start: float
    slope: float = 0.0

    def at(self, exemplars: int) -> float:
        return self.start + self.slope * exemplars

    @classmethod
    def through(cls, low: tuple[int, float], high: tuple[int, float]) -> Line:
        """Through two measured points (r, seconds). More exemplars never take less time: noise that says so is cut."""
        (r_low, s_low), (r_high, s_high) = low, high
        if r_low == r_high or s_high <= s_low:
            return cls(max(s_low, s_high))
        slope = (s_high - s_low) / (r_high - r_low)
        return cls(s_low - slope * r_low, slope)


def is_hidden(exemplars: int, round_s: Line, step_s: Line, share: float = SHARE) -> bool:
    """Whether a round of so many exemplars takes at most `share` of the step."""
    return round_s.at(exemplars) <= share * step_s.at(exemplars)


def largest_hidden(round_s: Line, step_s: Line, most: int, share: float = SHARE) -> int:
    """The largest r in [1, most] whose round is hidden; 0 if there is none."""
    if is_hidden(most, round_s, step_s, share):
        return most
    start = share * step_s.start - round_s.start
    slope = round_s.slope - share * step_s.slope
    if slope <= 0:  # rounds grow no faster than steps, and at `most` they still are too long
        return 0
    exemplars = min(most, math.floor(start / slope))
    return exemplars if exemplars >= 1 else 0
