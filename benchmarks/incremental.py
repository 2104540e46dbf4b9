"""Claim: training with rehearsal takes (b + r) / b of the time of plain incremental training, and at most 3 % more.

The lower bound of the paper: the minibatches are larger by r, and that is all. As overlap.py, against DDP on
minibatches of b.

    python benchmarks/incremental.py [--quick] [--jobs mlp cnn resnet18]
"""

from __future__ import annotations

import argparse

import record
from stepping import JOBS, B, R, paired, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    arguments = parser.parse_args()
    bar, figures = (B + R) / B * 1.03, {}
    for name in arguments.jobs:
        times = run(JOBS[name], 8 if arguments.quick else 40)["times"]
        wall, cpu = (paired(times, "rehearsal", "lower", which) for which in (0, 1))
        figures[name] = {"wall": wall, "cpu": cpu, "bar": bar, "holds": wall["median"] <= bar}
    record.save("incremental", {"b": B, "r": R, **figures})


if __name__ == "__main__":
    main()
