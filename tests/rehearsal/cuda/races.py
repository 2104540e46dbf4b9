"""Who touches which memory when: the judge of a simulated GPU. Memory is told by address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


class RaceError(AssertionError):
    """Two accesses to the same memory that nothing puts in order."""


@dataclass(frozen=True)
class Access:
    start: int
    end: int
    agent: str
    time: int
    is_write: bool
    what: str


class Judge:
    """Keeps what was accessed, and refuses two accesses that nothing puts in order."""

    def __init__(self) -> None:
        self._accesses: list[Access] = []

    def judge(
        self, agent: str, clock: Counter[str], what: str, reads: Sequence[Tensor], writes: Sequence[Tensor]
    ) -> None:
        for values, is_write in ((reads, False), (writes, True)):
            for value in values:
                if not value.numel():
                    continue
                access = Access(*extent(value), agent, clock[agent], is_write, what)
                for other in self._accesses:
                    if _conflict(access, other) and other.time > clock[other.agent]:
                        raise RaceError(f"{access} and {other} are in no order")
                # what lies entirely under a later write that comes after it is judged by that write
                self._accesses = [a for a in self._accesses if not (is_write and _covers(access, a))]
                self._accesses.append(access)


def extent(value: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.data_ptr(), value.data_ptr() + (last + 1) * value.itemsize


def _conflict(a: Access, b: Access) -> bool:
    return a.start < b.end and b.start < a.end and (a.is_write or b.is_write)


def _covers(a: Access, b: Access) -> bool:
    return a.start <= b.start and b.end <= a.end
