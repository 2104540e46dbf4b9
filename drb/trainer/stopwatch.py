"""Clocks of a run: seconds spent training, and what passed between two logged points."""

from __future__ import annotations

import time
from typing import Any


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
        """As if the time between the two runs had not been."""
        self._last = (time.perf_counter() - state["seconds"], state["steps"], state["rows"])
