"""Claims: on the small online job drb learns as well as a bare loop, on one rank and on two, and costs little more CPU.

Fashion-MNIST online (configs/experiment/fashion_mnist_online.yaml) against benchmarks/plain_loop.py, in turns, one
thread per rank. Speed: CPU seconds of the training loop, the median of --repeats turns, to be at most 1.3 times the
plain loop's. Accuracy: the same seeds for each, the difference of means to be at least -2 standard errors.

    python benchmarks/online_small.py
    python benchmarks/online_small.py --seeds 0          speed alone
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record

SPEED_TARGET, ACCURACY_TARGET = 1.3, -2.0  # times the plain loop's CPU; standard errors
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_plain(seed: int) -> dict[str, float]:
    """accuracy and cpu_seconds of the plain loop."""
    command = [sys.executable, str(ROOT / "benchmarks/plain_loop.py"), "--seed", str(seed)]
    result: dict[str, float] = json.loads(_output(command))
    return result


def run_drb(seed: int, world_size: int) -> dict[str, float]:
    """accuracy and cpu_seconds (of rank 0) of drb."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    with tempfile.TemporaryDirectory() as folder:
        settings = ["experiment=fashion_mnist_online", "tracking=none", f"seed={seed}", f"hydra.run.dir={folder}"]
        _output([sys.executable, *(launcher if world_size > 1 else []), "-m", "drb.train", *settings])
        summary = json.loads((Path(folder) / "summary.json").read_text())
    return {
        "accuracy": summary["acc"],
        "cpu_seconds": summary["train_cpu_seconds"],
        "extend_seconds": summary["rehearsal"]["extend_seconds"],
    }


def compare_speed(repeats: int) -> dict[str, Any]:
    plain, drb = [], []
    for turn in range(repeats):  # in turns, so that a busy machine slows both
        plain.append(run_plain(turn)["cpu_seconds"])
        drb.append(run_drb(turn, 1)["cpu_seconds"])
        print(f"turn {turn}: plain {plain[-1]:.2f} s, drb {drb[-1]:.2f} s of CPU", file=sys.stderr, flush=True)
    medians = statistics.median(plain), statistics.median(drb)
    return {
        "plain_cpu_seconds": plain,
        "drb_cpu_seconds": drb,
        "plain_samples_per_cpu_second": 60_000 / medians[0],
        "drb_samples_per_cpu_second": 60_000 / medians[1],
        "ratio_of_medians": medians[1] / medians[0],
        "target": SPEED_TARGET,
        "holds": medians[1] / medians[0] <= SPEED_TARGET,
    }


def compare_accuracy(seeds: int) -> dict[str, Any]:
    accuracies: dict[str, list[float]] = {"plain": [], "drb, 1 rank": [], "drb, 2 ranks": []}
    for seed in range(seeds):
        accuracies["plain"].append(run_plain(seed)["accuracy"])
        accuracies["drb, 1 rank"].append(run_drb(seed, 1)["accuracy"])
        accuracies["drb, 2 ranks"].append(run_drb(seed, 2)["accuracy"])
        latest = ", ".join(f"{name} {values[-1]:.4f}" for name, values in accuracies.items())
        print(f"seed {seed}: {latest}", file=sys.stderr, flush=True)
    return {
        name: {"accuracies": values, **_mean(values), **({} if name == "plain" else _against(values, accuracies))}
        for name, values in accuracies.items()
    }


def _against(values: list[float], accuracies: dict[str, list[float]]) -> dict[str, Any]:
    own, plain = _mean(values), _mean(accuracies["plain"])
    error = math.hypot(own["standard_error"], plain["standard_error"])
    difference = own["mean"] - plain["mean"]
    return {
        "difference": difference,
        "standard_error_of_difference": error,
        "difference_in_standard_errors": difference / error,
        "target": ACCURACY_TARGET,
        "holds": difference >= ACCURACY_TARGET * error,
    }


def _mean(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "standard_error": statistics.stdev(values) / math.sqrt(len(values))}


def _output(command: list[str]) -> str:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns of the speed comparison")
    parser.add_argument("--quick", action="store_true", help="two turns of the speed comparison")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the accuracy comparison: 0, or at least 2")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"speed": compare_speed(2 if arguments.quick else arguments.repeats)}
    if arguments.seeds:
        figures["accuracy"] = compare_accuracy(arguments.seeds)
    record.save("online_small", figures)


if __name__ == "__main__":
    main()
