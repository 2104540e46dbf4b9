"""When exemplars are too old to be kept: `max_age`, in steps or in time.

Letters: n stored exemplars, D due ones.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Removal
from drb.types import Int64Array

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_NEVER = (1 << 63) - 1


class MaxAge(NamedTuple):
    """limit: in steps or, with is_time, in seconds."""

    limit: int
    is_time: bool

    @classmethod
    def parse(cls, value: int | str) -> MaxAge:
        """Rounds (an integer), or a time such as "12h" or "30d".

        Raises:
            ValueError: neither, or below 1.
        """
        match = re.fullmatch(r"\s*(\d+)\s*(s|min|h|d|w)\s*", value) if isinstance(value, str) else None
        if match is not None and int(match[1]) > 0:
            return cls(int(match[1]) * _SECONDS[match[2]], True)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return cls(value, False)
        raise ValueError(
            f'max_age must be steps (an integer of at least 1) or a time such as "12h" or "30d" (units s, min, h, d, '
            f"w), got {value!r}"
        )


class Expiry:
    """Finds the slots that are due, without a look at all of them in every round.

    All slots are searched once per 1/16 of `max_age`, for those that fall due until the next search; in between only
    these are looked at, and only once the earliest of them is due.
    """

    def __init__(self, max_age: MaxAge, clock: Callable[[], float] = time.time) -> None:
        """clock: seconds since 1970."""
        self._max_age = max_age
        self._clock = clock
        self._slack = max(1, max_age.limit // 16)
        self.reset()

    @property
    def is_time(self) -> bool:
        return self._max_age.is_time

    def reset(self) -> None:
        """The columns were replaced."""
        self._horizon = -_NEVER  # every slot admitted before it is watched; none is admitted before it from now on
        self._watched: Int64Array = NOTHING.slots
        self._earliest = -_NEVER  # nothing is due while the oldest allowed admission is before it

    def stamp(self, columns: Columns, slots: Int64Array) -> None:
        """These slots were taken now."""
        if columns.admitted_at is not None:
            columns.admitted_at[slots] = int(self._clock())

    def due(self, columns: Columns, round_: int) -> Int64Array:
        """Slots whose exemplars are older than max_age in round `round_`: int64 [D], ascending."""
        now = int(self._clock()) if self.is_time else round_
        oldest = now - self._max_age.limit  # the earliest admission that may stay
        if oldest < self._earliest:
            return NOTHING.slots
        size, admitted = columns.size, self._admitted(columns)
        if oldest > self._horizon:
            self._horizon = oldest + self._slack
            self._watched = np.flatnonzero(admitted[:size] < self._horizon)
        watched = self._watched[self._watched < size]
        when = admitted[watched]
        stays = (when >= oldest) & (when < self._horizon)  # else it is due, or was replaced
        self._watched = watched[stays]
        self._earliest = 1 + int(when[stays].min() if stays.any() else self._horizon)
        return np.unique(watched[when < oldest])

    def moved(self, columns: Columns, removal: Removal) -> None:
        """Exemplars have moved to other slots."""
        targets = removal.targets[self._admitted(columns)[removal.targets] < self._horizon]
        if len(targets):
            self._watched = np.union1d(self._watched, targets)

    def _admitted(self, columns: Columns) -> Int64Array:
        return columns.admitted_round if columns.admitted_at is None else columns.admitted_at
