"""Claims of docs/which_past.md: what each way to choose the past is worth where forgetting is planted.

    python -m benchmarks.which_past pilot             which clusters uniform rehearsal damages, with seeds of its own
    python -m benchmarks.which_past measure STREAM    every point with seeds 0 to 9, into runs/which_past/STREAM.jsonl
    python -m benchmarks.which_past report            tables, picture and benchmarks/results/which_past.json
    torchrun --nproc-per-node=2 -m benchmarks.which_past measure STREAM --points uniform mix_cd --seeds 3

`measure` goes on where it was. A run takes one thread for about 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import record
from benchmarks.which_past.points import POINTS
from benchmarks.which_past.report import FOLDER, report
from benchmarks.which_past.streams import CLUSTERS, STREAMS, Stream
from benchmarks.which_past.training import Base, by_cluster, train

PILOT_SEEDS = range(100, 105)
LOST = 0.15  # of a damaged cluster's accuracy, on average over the seeds of the pilot


def pilot() -> None:
    """Find the clusters that uniform rehearsal damages."""
    record.save("which_past_pilot", {name: _pilot_of(make()) for name, make in STREAMS.items()})


def _pilot_of(stream: Stream) -> dict[str, Any]:
    lost = torch.zeros(CLUSTERS, dtype=torch.float64)
    for seed in PILOT_SEEDS:
        base = Base(stream, seed)
        after = train(base, POINTS["uniform"])["accuracy_clusters"]
        before = by_cluster(base.right, stream.base_test)
        lost += torch.tensor(before, dtype=torch.float64) - torch.tensor(after, dtype=torch.float64)
        print(stream.name, seed, file=sys.stderr, flush=True)
    lost /= len(PILOT_SEEDS)
    damaged = (lost >= LOST).nonzero()[:, 0].tolist()
    return {
        "seeds": list(PILOT_SEEDS),
        "lost": [round(each, 4) for each in lost.tolist()],
        "damaged": damaged,
        "worst": int(lost.argmax()),
        "share_of_base": torch.isin(stream.base.cluster, torch.tensor(damaged)).float().mean().item(),
    }


def measure(name: str, points: list[str], seeds: int) -> None:
    """Run what has not been run."""
    stream, size = STREAMS[name](), dist.get_world_size() if dist.is_initialized() else 1
    file = FOLDER / (f"{name}.jsonl" if size == 1 else f"{name}-{size}-ranks.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    done = (
        {(run["seed"], run["point"]) for run in map(json.loads, file.read_text().splitlines())}
        if file.exists()
        else set()
    )
    if size > 1:
        dist.barrier()  # all have read it
    for seed in range(seeds):
        if not (missing := [point for point in points if (seed, point) not in done]):
            continue
        base = Base(stream, seed)
        before = {
            "accuracy_before": base.right.float().mean().item(),
            "clusters_before": by_cluster(base.right, stream.base_test),
        }
        tests = torch.bincount(stream.base_test.cluster, minlength=CLUSTERS).tolist()
        shares = (torch.bincount(stream.base.cluster, minlength=CLUSTERS) / len(stream.base)).tolist()
        for point in missing:
            figures = train(base, POINTS[point])
            if size == 1 or dist.get_rank() == 0:
                run = {
                    "seed": seed,
                    "point": point,
                    **before,
                    "tests_clusters": tests,
                    "shares_clusters": shares,
                    **figures,
                }
                with file.open("a") as lines:
                    lines.write(json.dumps(run) + "\n")
                print(
                    name,
                    seed,
                    point,
                    f"old {run['accuracy_old']:.4f} new {run['accuracy_new']:.4f}",
                    file=sys.stderr,
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pilot", "measure", "report"))
    parser.add_argument("stream", nargs="?", choices=tuple(STREAMS))
    parser.add_argument("--points", nargs="+", default=list(POINTS), choices=tuple(POINTS), metavar="POINT")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    if arguments.what == "pilot":
        pilot()
    elif arguments.what == "report":
        report()
    else:
        measure(arguments.stream, arguments.points, arguments.seeds)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
