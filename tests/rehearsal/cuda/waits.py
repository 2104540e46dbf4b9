"""Leaving out one wait at a time: which of them the judge misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rehearsal.cuda.races import RaceError
from rehearsal.cuda.simulated import SimulatedGpu


def needed_waits(run: Callable[[SimulatedGpu], Any], *, is_early: bool) -> dict[str, int]:
    """How many of each kind of wait are missed by the judge when they alone are left out."""
    whole = SimulatedGpu(is_early=is_early)
    run(whole)
    return {
        kind: sum(_is_race(run, SimulatedGpu(is_early=is_early, leave_out=(kind, n))) for n in range(whole.calls[kind]))
        for kind in ("synchronize", "wait_event")
    }


def _is_race(run: Callable[[SimulatedGpu], Any], gpu: SimulatedGpu) -> bool:
    try:
        run(gpu)
    except RaceError:
        return True
    return False
