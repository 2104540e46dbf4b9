"""Claim: a training step with rehearsal takes as long as plain DDP on minibatches of b + r.

And hence at most 3 % more than (b + r) / b of plain incremental training, DDP on minibatches of b: the paper's lower
bound, where minibatches are larger by r, and that is all.

Two ranks, b = 56, r = 7: ResNet-18 on 64x64, a CNN on 32x32, an MLP on 28x28; see stepping.py for how the kinds of
step are interleaved. Targets of the overlap are on the upper 95 % bound of the median ratio; the pair of two equal runs
shows the noise.

    python benchmarks/overlap.py [--quick] [--blocks N] [--jobs mlp cnn resnet18]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import record
from stepping import JOBS, B, R, paired, run

TARGETS = {"resnet18": (1.015, 1.015), "cnn": (1.03, 1.03), "mlp": (1.10, 1.08)}  # wall, CPU
INCREMENTAL_TARGET = (B + R) / B * 1.03


def measure(name: str, blocks: int) -> dict[str, Any]:
    result = run(JOBS[name], blocks)
    times, stats = result["times"], result["stats"]["rehearsal"]
    wall, cpu = (paired(times, "rehearsal", "plain", which) for which in (0, 1))
    incremental, larger = (paired(times, kind, "lower", 0) for kind in ("rehearsal", "plain"))
    plain = statistics.median(w for w, _ in times[0]["plain"])
    return {
        "plain_step_ms": 1000 * plain,
        "wall": {**wall, "target": TARGETS[name][0], "A/A": paired(times, "plain (A)", "plain", 0)},
        "cpu": {**cpu, "target": TARGETS[name][1], "A/A": paired(times, "plain (A)", "plain", 1)},
        "holds": wall["upper_95"] <= TARGETS[name][0] and cpu["upper_95"] <= TARGETS[name][1],
        "incremental": {
            **incremental,
            "target": INCREMENTAL_TARGET,
            "holds": incremental["median"] <= INCREMENTAL_TARGET,
            "of plain DDP on b + r": larger,
        },
        "round_ms": 1000 * stats["round_seconds"] / stats["rounds"],
        "worker_cpu_ms_per_round": 1000 * stats["worker_cpu_seconds"] / stats["rounds"],
        "extend_ms_per_step": 1000 * stats["extend_seconds"] / stats["rounds"],
        "exchange": stats["exchange"],
        "asynchronous": stats["asynchronous"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--blocks", type=int, help="by default 40, quick 8; of each of four kinds of step")
    arguments = parser.parse_args()
    blocks = arguments.blocks or (8 if arguments.quick else 40)
    record.save("overlap", {"b": B, "r": R, **{name: measure(name, blocks) for name in arguments.jobs}})


if __name__ == "__main__":
    main()
