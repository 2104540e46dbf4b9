"""Who touches which memory when: the judge of a simulated GPU. Memory is told by address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor


class RaceError(AssertionError):
    """Two accesses to the same memory that nothing puts in order."""


_COLUMNS = _START, _END, _AGENT, _TIME, _IS_WRITE, _WHAT = range(6)


class Judge:
    """Keeps what was accessed, and refuses two accesses that nothing puts in order.

    The accesses are the columns of one int64 array, since each new one is compared with all of them. Agents and
    what they do are numbered there.
    """

    def __init__(self) -> None:
        self._accesses = np.empty((len(_COLUMNS), 256), np.int64)
        self._count = 0
        self._agents: list[str] = []
        self._whats: list[str] = []

    def judge(
        self, agent: str, clock: Counter[str], what: str, reads: Sequence[Tensor], writes: Sequence[Tensor]
    ) -> None:
        numbers = _number(self._agents, agent), _number(self._whats, what)
        seen = np.array([clock[other] for other in self._agents])
        for values, is_write in ((reads, False), (writes, True)):
            for value in values:
                if value.numel():
                    start, end = extent(value)
                    self._judge_one((start, end, numbers[0], clock[agent], is_write, numbers[1]), seen)

    def _judge_one(self, access: tuple[int, ...], seen: np.ndarray) -> None:
        start, end, is_write = access[_START], access[_END], access[_IS_WRITE]
        others = self._accesses[:, : self._count]
        is_race = (others[_START] < end) & (start < others[_END]) & (others[_TIME] > seen[others[_AGENT]])
        if not is_write:
            is_race &= others[_IS_WRITE] == 1
        if is_race.any():
            other = others[:, is_race.argmax()]
            raise RaceError(f"{self._told(access)} and {self._told(other)} are in no order")
        if is_write:  # what lies entirely under a later write that comes after it is judged by that write
            is_kept = (others[_START] < start) | (end < others[_END])
            if not is_kept.all():
                kept = others[:, is_kept]
                self._count = kept.shape[1]
                self._accesses[:, : self._count] = kept
        if self._count == self._accesses.shape[1]:
            self._accesses = np.concatenate([self._accesses, np.empty_like(self._accesses)], axis=1)
        self._accesses[:, self._count] = access
        self._count += 1

    def _told(self, access: Sequence[int]) -> str:
        kind = "write" if access[_IS_WRITE] else "read"
        place = f"{access[_START]:#x} to {access[_END]:#x}"
        return f"{self._agents[access[_AGENT]]}'s {kind} of {place} ({self._whats[access[_WHAT]]}, {access[_TIME]})"


def _number(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


class NoJudge(Judge):
    """Looks at nothing: most of the time that a simulated GPU takes is its judge's."""

    def judge(
        self, agent: str, clock: Counter[str], what: str, reads: Sequence[Tensor], writes: Sequence[Tensor]
    ) -> None:
        pass


def extent(value: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr(), value.data_ptr() + (last + 1) * value.itemsize
