"""Claim: a rank draws its exemplars from the union of thousands of ranks, or of a thousand strata, in microseconds.

Counts of every rank and stratum in, r distinct places out, by `uniform` (one group) and `balanced` (a group per
stratum). While no count changes, which is so for most of a run, what follows from the counts is kept (`kept_us`); the
claim, and the target, are for counts that change before every draw, as while buffers fill (`changing_us`).

    python benchmarks/sampler_draw.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import record
from interleaved import medians_us, of_runs

from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Sampler

CASES = {  # ranks, strata, exemplars, proportions: at most so many µs
    (1024, 1, 7, "uniform"): 30.0,
    (4096, 1, 64, "uniform"): 30.0,
    (8, 1000, 64, "balanced"): 200.0,
    (2, 1, 7, "uniform"): None,
    (64, 1, 7, "uniform"): None,
    (8, 10, 64, "balanced"): None,
    (1024, 1, 7, "stream"): None,
}


def measure(world_size: int, strata: int, exemplars: int, proportions: str, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3 if strata > 1 else 100, (world_size, strata))
    offered = counts.sum(axis=1) + rng.integers(0, 1000, world_size)
    kept, changing = (Sampler(exemplars, PROPORTIONS.build(proportions), seed=0, rank=1) for _ in range(2))
    one_more = counts.copy()
    one_more[0, 0] += 1
    rounds, given = itertools.count(), itertools.cycle([(counts, offered), (one_more, offered + 1)])
    return medians_us(
        {
            "kept_us": lambda: kept.draw(next(rounds), counts, offered),
            "changing_us": lambda: changing.draw(next(rounds), *next(given)),
        },
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    figures = {}
    for (world_size, strata, exemplars, proportions), target in CASES.items():
        repeats = 300 if quick else 3000
        result = of_runs([measure(world_size, strata, exemplars, proportions, repeats) for _ in range(5)])
        name = f"W={world_size}, S={strata}, r={exemplars}, {proportions}"
        figures[name] = {
            **result,
            **({} if target is None else {"target_us": target, "holds": result["changing_us"] <= target}),
        }
    record.save("sampler_draw", figures)


if __name__ == "__main__":
    main()
