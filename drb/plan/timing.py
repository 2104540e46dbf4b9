"""How long a collective call takes, on all ranks together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from drb.exchange import Peers

WARM_UP, MOST_CALLS, MOST_BLOCKS = 2, 2000, 50


def timed(call: Callable[[], Any], seconds: float, peers: Peers | None) -> tuple[float, float]:
    """The clock's and the CPU's seconds of a collective call: medians; of the slowest rank, of the mean one.

    Every rank calls it equally often, for about so many seconds.
    """
    for _ in range(WARM_UP):
        start = time.perf_counter()
        call()
    calls = min(max(1, int(seconds / (time.perf_counter() - start))), MOST_CALLS)
    if peers is not None:
        calls = int(peers.announce(np.array([calls]))[0, 0])
    block = max(1, calls // MOST_BLOCKS)  # of calls between two looks at the clock
    times = []
    for _ in range(calls // block):
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(block):
            call()
        times.append(((time.perf_counter() - start) / block, (time.process_time() - cpu_start) / block))
    clock, cpu = np.median(np.array(times), axis=0).tolist()
    if peers is not None:
        everyones = peers.announce(np.array([clock * 1e9, cpu * 1e9]).astype(np.int64)) / 1e9
        clock, cpu = float(everyones[:, 0].max()), float(everyones[:, 1].mean())
    return clock, cpu
