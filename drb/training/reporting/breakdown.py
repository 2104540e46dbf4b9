"""Where the time of a step goes: seconds of each part, on the training thread and in the rehearsal's rounds.

The training thread's parts add up to the training time, without the rehearsal's set-up at the first minibatch. A round
runs beside them on the worker, or (`round`) among them with the inline engine. See docs/breakdown.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from drb.types import Minibatch

if TYPE_CHECKING:
    from drb.rehearsal.rehearsal import Rehearsal

TRAINING = ("load", "wait", "round", "admission", "copy", "train")
ROUND = ("announce", "draw", "index", "rows")


class TimedLoader:
    """An iterator over minibatches. seconds: that its user has waited for them."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._minibatches: Iterator[Minibatch] = iter(())

    def over(self, minibatches: Iterator[Minibatch]) -> TimedLoader:
        self._minibatches = minibatches
        return self

    def __iter__(self) -> TimedLoader:
        return self

    def __next__(self) -> Minibatch:
        start = time.perf_counter()
        minibatch = next(self._minibatches)
        self.seconds += time.perf_counter() - start
        return minibatch


class Breakdown:
    """The breakdown of this rank. Costs a step three readings of the clock; sums are computed when they are asked for.

    clock: of the training loop, which the training thread's parts add up to.
    device_seconds: spent queueing copies to the device, for the trainer to add to.
    """

    def __init__(self, clock: Stopwatch, rehearsal: Rehearsal | None) -> None:
        self._clock = clock
        self._rehearsal = rehearsal
        self.loader = TimedLoader()
        self.device_seconds = 0.0
        self._last: dict[str, float] = {}  # sums at the last logged point
        self._last_steps = 0

    def totals(self) -> dict[str, float]:
        """Seconds so far of each of `TRAINING` and, with a rehearsal, each of `ROUND` and `setup`."""
        load, device, whole = self.loader.seconds, self.device_seconds, self._clock.seconds
        if self._rehearsal is None:
            return {"load": load, "copy": device, "train": whole - load - device}
        stats = self._rehearsal.stats()
        names = ("extend", "wait", "admission", "setup", "inline", "announce", "draw", "fetch", "index")
        seconds = {name: float(stats.get(f"{name}_seconds", 0.0)) for name in names}
        extend, wait, admission, setup, inline = (seconds[name] for name in names[:5])
        return {
            "load": load,
            "wait": wait,
            "round": inline,
            "admission": admission,
            "copy": extend - wait - inline - admission + device,
            "train": whole - load - extend - setup - device,
            "announce": seconds["announce"],
            "draw": seconds["draw"],
            "index": seconds["index"],
            "rows": seconds["fetch"] - seconds["index"],
            "setup": setup,
        }

    def interval(self, steps: int) -> dict[str, float]:
        """`breakdown/load_ms` …: milliseconds per step since the call before, for metrics.

        steps: optimisation steps so far.
        """
        now, passed = self.totals(), max(steps - self._last_steps, 1)
        last, self._last, self._last_steps = self._last, now, steps
        parts = [name for name in now if name != "setup"]
        return {f"breakdown/{name}_ms": 1000 * (now[name] - last.get(name, 0.0)) / passed for name in parts}

    def summary(self, steps: int) -> dict[str, Any]:
        """For summary.json: seconds of the whole run, `training` and `round` (None without a rehearsal)."""
        totals = self.totals()
        return {
            "steps": steps,
            "training": {name: totals[name] for name in TRAINING if name in totals},
            "round": {name: totals[name] for name in ROUND} if self._rehearsal is not None else None,
            "setup": totals.get("setup", 0.0),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "load": self.loader.seconds,
            "device": self.device_seconds,
            "last": dict(self._last),
            "last_steps": self._last_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there; the rehearsal does so by itself."""
        self.loader.seconds, self.device_seconds = float(state["load"]), float(state["device"])
        self._last, self._last_steps = dict(state["last"]), int(state["last_steps"])


class Stopwatch:
    """Wall and CPU seconds of this process inside its `with` blocks."""

    def __init__(self) -> None:
        self._wall = 0.0
        self._cpu = 0.0
        self._started: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        return self._wall + (time.perf_counter() - self._started[0] if self._started else 0.0)

    @property
    def cpu_seconds(self) -> float:
        return self._cpu + (time.process_time() - self._started[1] if self._started else 0.0)

    def __enter__(self) -> Stopwatch:
        self._started = (time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: Any) -> None:
        self._wall, self._cpu, self._started = self.seconds, self.cpu_seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside, in the midst of a `with` block."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def state_dict(self) -> dict[str, float]:
        return {"wall": self.seconds, "cpu": self.cpu_seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting from there."""
        self._wall, self._cpu = state["wall"], state["cpu"]


class Interval:
    """What passed between two logged points."""

    def __init__(self, steps: int = 0, rows: int = 0) -> None:
        self._last = (time.perf_counter(), steps, rows)

    def next(self, steps: int, rows: int) -> tuple[float, int, int]:
        """Seconds, steps and rows since the point before."""
        before, self._last = self._last, (time.perf_counter(), steps, rows)
        return self._last[0] - before[0], steps - before[1], rows - before[2]

    def state_dict(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._last[0], "steps": self._last[1], "rows": self._last[2]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if the time between the two runs had not been."""
        self._last = (time.perf_counter() - state["seconds"], state["steps"], state["rows"])
