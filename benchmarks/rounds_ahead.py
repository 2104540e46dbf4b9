"""What rounds further ahead (depth) and rarer ones (interval) save: the figures from which the defaults were chosen.

Two ranks, b = 56, r = 7, steps of several rehearsals and of plain DDP on b + r in turns, as in overlap.py. Rounds run
on a worker, or inline: on the training thread, in `extend`. Late rounds, which depth is for, are in hidden_delay.py.

    python benchmarks/rounds_ahead.py [--quick] [--jobs mlp cnn]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import record
from stepping import JOBS, B, R, paired, run

AHEAD = {
    f"depth {depth}, every {interval}": {"depth": depth, "interval": interval, "asynchronous": True}
    for depth, interval in ((1, 1), (2, 1), (1, 2), (1, 4), (1, 8), (2, 4))
}
AHEAD |= {f"inline, every {interval}": {"interval": interval, "asynchronous": False} for interval in (1, 8)}


def measure(name: str, blocks: int) -> dict[str, Any]:
    result = run(JOBS[name], blocks, rehearsals=AHEAD)
    times = result["times"]
    figures: dict[str, Any] = {
        "plain_step_ms": 1000 * statistics.median(w for w, _ in times[0]["plain"]),
        "A/A": {"wall": paired(times, "plain (A)", "plain", 0), "cpu": paired(times, "plain (A)", "plain", 1)},
    }
    for kind, options in AHEAD.items():
        stats = result["stats"][kind]
        steps = stats["rounds"] * options["interval"]
        figures[kind] = {
            "wall": paired(times, kind, "plain", 0),
            "cpu": paired(times, kind, "plain", 1),
            "worker_cpu_us_per_step": 1e6 * stats["worker_cpu_seconds"] / steps,
            "wait_us_per_step": 1e6 * stats["wait_seconds"] / steps,
            "extend_us_per_step": 1e6 * stats["extend_seconds"] / steps,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=["mlp", "cnn"])
    arguments = parser.parse_args()
    blocks = 8 if arguments.quick else 40
    record.save("rounds_ahead", {"b": B, "r": R, **{name: measure(name, blocks) for name in arguments.jobs}})


if __name__ == "__main__":
    main()
