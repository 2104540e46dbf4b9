"""Claim: the order of a mix costs a rank less than 1 % of a step of 3 ms, and the state of a run a few hundred bytes.

`sampler_us` is what `MixSampler` takes for each minibatch, lists of Python integers included, in the middle of an epoch
and over its end alike; `begin_ms` is what a new mix takes once, and `resume_ms` a state that is loaded.

    python benchmarks/mix.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import record

from drb import MixedSource

TARGET_US = 30.0
ROWS = 64  # of a minibatch
CASES: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {  # ranks, and of each source: samples, share
    "W=1, 100,000 new : 50,000 of 170,000": (1, {"new": (100_000, 2), "base": (170_000, 1)}),
    "W=8, 100,000 new : 50,000 of 170,000": (8, {"new": (100_000, 2), "base": (170_000, 1)}),
    "W=8, shares 100,000 : 99,999": (8, {"new": (100_000, 100_000), "base": (170_000, 99_999)}),
    "W=8, 8 sources of 1,281,167": (8, {f"source {i}": (1_281_167, i + 1) for i in range(8)}),
    "W=8, 100,000,000 samples": (8, {"new": (100_000, 1), "base": (100_000_000, 3)}),
    "W=48, 100,000 new : 50,000 of 170,000": (48, {"new": (100_000, 2), "base": (170_000, 1)}),
}


class Numbers:
    """A dataset of so many samples, which are not read."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"label": index}


def measure(world_size: int, sources: dict[str, tuple[int, int]], steps: int) -> dict[str, float]:
    parts = [(name, Numbers(count), share) for name, (count, share) in sources.items()]
    start = time.perf_counter()
    mixed = MixedSource(parts, batch_size=ROWS * world_size, seed=0)
    next(iter(mixed.sampler(0, world_size)))
    begun = time.perf_counter()
    resumed = MixedSource(parts, batch_size=ROWS * world_size, seed=0)
    begin_resume = time.perf_counter()
    resumed.load_state_dict(mixed.state_dict(step=123_457))
    minibatches = iter(resumed.sampler(0, world_size, steps=steps + 1))
    next(minibatches)
    went_on = time.perf_counter()
    for _ in minibatches:
        pass
    done = time.perf_counter()
    return {
        "sampler_us": (done - went_on) / steps * 1e6,
        "begin_ms": (begun - start) * 1e3,
        "resume_ms": (went_on - begin_resume) * 1e3,
        "state_bytes": len(json.dumps(mixed.state_dict(step=123_457))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    figures = {}
    for name, (world_size, sources) in CASES.items():
        runs = [measure(world_size, sources, 2000 if quick else 20_000) for _ in range(1 if quick else 5)]
        result = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        figures[name] = {**result, "target_us": TARGET_US, "holds": result["sampler_us"] <= TARGET_US}
    record.save("mix", figures)


if __name__ == "__main__":
    main()
