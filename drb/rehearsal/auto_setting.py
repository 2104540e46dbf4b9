"""What exemplars="auto…" asks for.

auto, auto:64                           as many as stay hidden behind the steps, at most 64 or a minibatch's rows
auto:accuracy, auto:accuracy:0.02:64    as few as keep what was learnt: within 0.02 of it, with at most 64
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EPSILON = 0.01


@dataclass(frozen=True)
class AutoSetting:
    """limit: the most exemplars; None: as many as a minibatch has rows. epsilon: None unless accuracy is to be kept."""

    limit: int | None = None
    epsilon: float | None = None

    @classmethod
    def parse(cls, exemplars: str) -> AutoSetting:
        """Return what a setting asks for. Raises ValueError for anything else than the forms above."""
        match = re.fullmatch(r"auto(:accuracy(?::(0?\.\d+))?)?(?::([1-9]\d*))?", exemplars)
        if match is None:
            raise ValueError(
                f"exemplars must be an integer of at least 1, auto, or auto:N with a limit, got {exemplars!r}; "
                "auto:accuracy:0.01:N keeps accuracy within 0.01"
            )
        epsilon = None if match[1] is None else float(match[2] or EPSILON)
        if epsilon == 0:
            raise ValueError(f"exemplars={exemplars}: the accuracy that may be lost must be above 0, such as 0.01")
        return cls(int(match[3]) if match[3] else None, epsilon)

    def with_limit(self, limit: int) -> str:
        """Return the setting as text, with this limit."""
        if self.epsilon is None:
            return f"auto:{limit}"
        return f"auto:accuracy:{self.epsilon:.12f}".rstrip("0") + f":{limit}"
