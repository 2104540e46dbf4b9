"""exemplars="auto": the largest r whose rounds are overlapped with steps, measured in the first steps, then fixed.

Once the union holds enough, rounds draw many and few exemplars in turn (`most` and an eighth of it) and are timed, and
so are the steps that run meanwhile. After ROUNDS of them each rank says what it could hide, in one small collective
inside the round, after its barrier; the smallest is every rank's r from that round on. What a rank draws is a
function of numbers that all ranks share, so ranks always draw equally many. A resumed run goes on with the r that was
chosen; one that was stopped before measures again.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drb.exchange import Exchange
from drb.rehearsal.engine import AsyncEngine
from drb.rehearsal.exemplars import RoundResult
from drb.types import Int64Array

WARM_UP, ROUNDS = 6, 24  # rounds that are not counted, and that are; half of these draw many, half few
_NS = 1e9


class MeasuringEngine(AsyncEngine[RoundResult]):
    """Times rounds, and the steps between handing one in and asking for its result, until told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self._is_measuring = True
        self._trained = 0  # exemplars in the step that runs while the round does
        self._submitted = 0.0
        self.forget_measurements()

    def forget_measurements(self) -> None:
        self.round_seconds: dict[int, list[float]] = {}  # by exemplars of the round
        self.step_seconds: dict[int, list[float]] = {}  # by exemplars of the step

    def stop_measuring(self) -> None:
        self._is_measuring = False

    def submit(self, call: Callable[[], RoundResult]) -> None:
        super().submit((lambda: self._timed(call)) if self._is_measuring else call)
        self._submitted = time.perf_counter()

    def result(self, timeout_s: float | None = None) -> RoundResult:
        step_s = time.perf_counter() - self._submitted
        result = super().result(timeout_s)
        if self._is_measuring:
            self.step_seconds.setdefault(self._trained, []).append(step_s)
            self._trained = result.exemplars
        return result

    def _timed(self, call: Callable[[], RoundResult]) -> RoundResult:
        start = time.perf_counter()
        result = call()
        if self._is_measuring:  # not in the round that decided
            self.round_seconds.setdefault(result.exemplars, []).append(time.perf_counter() - start)
        return result


class AutoExemplars:
    """How many exemplars each round draws: at most `most`. Used on the engine's thread.

    chosen: r, once it is.
    say: is told what was chosen; None says nothing.
    """

    def __init__(
        self, most: int, exchange: Exchange, engine: MeasuringEngine, *, world_size: int, min_fill: int = 1
    ) -> None:
        self.most = most
        self.few = max(1, most // 8)
        self.chosen: int | None = None
        self.say: Callable[[str], None] | None = None
        self._exchange = exchange
        self._engine = engine
        self._world_size = world_size
        self._least_union = max(most, min_fill)
        self._measured = -WARM_UP  # rounds that drew as many as they were to

    def next(self, union: int) -> int:
        """Exemplars of this round. Called once per round after its barrier, with what all ranks know alike."""
        if self.chosen is not None:
            return self.chosen
        if union < self._least_union:
            return self.most  # and get as many as there are
        self._measured += 1
        if self._measured == 0:
            self._engine.forget_measurements()
        if self._measured <= ROUNDS:
            return self.most if self._measured % 2 else self.few
        self._choose()
        assert self.chosen is not None
        return self.chosen

    def __str__(self) -> str:
        return f"at most {self.most} (auto)" if self.chosen is None else f"{self.chosen} (auto)"

    def begin_task(self) -> None:
        """Tasks change nothing."""

    def stats(self) -> dict[str, float | None]:
        """Nothing more for `Rehearsal.stats`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"exemplars": self.chosen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("exemplars") is not None:
            self._fix(min(int(state["exemplars"]), self.most))

    def _choose(self) -> None:
        """Collective. Every rank's r and what it measured, in nanoseconds: the slowest rank decides, and is named."""
        points = self._medians()
        (round_few, round_most), (step_few, step_most) = points
        overlapped = largest_overlapped(
            Line.through((self.few, round_few), (self.most, round_most)),
            Line.through((self.few, step_few), (self.most, step_most)),
            self.most,
        )
        own: Int64Array = np.array([overlapped, *(seconds * _NS for pair in points for seconds in pair)], np.int64)
        everyones = self._exchange.share(own, np.full(self._world_size, len(own)))
        slowest = min(range(len(everyones)), key=lambda rank: int(everyones[rank][0]))
        overlapped, *times = everyones[slowest].tolist()
        self._fix(max(overlapped, 1))
        if self.say is not None:
            self.say(self._sentence(overlapped, slowest, [ns / 1e6 for ns in times]))

    def _medians(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Seconds of rounds, then of steps, with few and with many exemplars; the last ones have no counterpart yet."""
        rounds, steps = self._engine.round_seconds, self._engine.step_seconds
        few, most = self.few, self.most
        return (
            (statistics.median(rounds[few]), statistics.median(rounds[most])),
            (statistics.median(steps[few]), statistics.median(steps[most])),
        )

    def _fix(self, exemplars: int) -> None:
        self.chosen = exemplars
        self._engine.stop_measuring()

    def _sentence(self, overlapped: int, slowest: int, times_ms: list[float]) -> str:
        round_few, round_most, step_few, step_most = times_ms
        measured = (
            f"rank {slowest}, the slowest, took {round_few:.3g} ms for a round of {self.few} and {round_most:.3g} ms "
            f"for one of {self.most} in steps of {step_few:.3g} and {step_most:.3g} ms"
        )
        if overlapped == 0:
            return f"exemplars=auto: 1 per rank and step, and not even that is overlapped with a step: {measured}"
        limit = ", the most that it may be" if overlapped == self.most else ""
        return f"exemplars=auto: {overlapped} per rank and step from now on{limit}: {measured}"


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


def is_overlapped(exemplars: int, round_s: Line, step_s: Line, share: float = SHARE) -> bool:
    """Whether a round of so many exemplars takes at most `share` of the step."""
    return round_s.at(exemplars) <= share * step_s.at(exemplars)


def largest_overlapped(round_s: Line, step_s: Line, most: int, share: float = SHARE) -> int:
    """The largest r in [1, most] whose round is overlapped; 0 if there is none."""
    if is_overlapped(most, round_s, step_s, share):
        return most
    start = share * step_s.start - round_s.start
    slope = round_s.slope - share * step_s.slope
    if slope <= 0:  # rounds grow no faster than steps, and at `most` they still are too long
        return 0
    exemplars = min(most, math.floor(start / slope))
    return exemplars if exemplars >= 1 else 0
