"""Timing things side by side: in turns, so that a busy or throttled machine slows all of them alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

RECORDS = {"image": 150_528, "small": 3_136}  # bytes of one record of the benchmarks; small: float32


def medians_us(actions: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """The median time of each action in microseconds; every repeat runs all of them once, in another order."""
    times: dict[str, list[int]] = {name: [] for name in actions}
    order, shuffle = list(actions.items()), random.Random(0).shuffle
    gc.disable()
    try:
        for _ in range(repeats):
            shuffle(order)
            for name, action in order:
                start = time.perf_counter_ns()
                action()
                times[name].append(time.perf_counter_ns() - start)
    finally:
        gc.enable()
    return {name: statistics.median(values) / 1000 for name, values in times.items()}


def of_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median over whole runs, by name."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def upper_bound(ratios: Sequence[float], resamples: int = 10_000) -> float:
    """The upper bound of the median ratio: the 95 % quantile over bootstrap samples (Efron 1979), one-sided."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(resamples))
    return medians[int(0.95 * resamples)]
