"""Claim: none. What searching for a schedule of replay gains over equal shares, and the task trainings that it takes.

Task-incremental Split Fashion-MNIST: 5 tasks of 2 classes, M = 10 samples of the past in every minibatch of a task,
chosen at the transition. The schedule is chosen by accuracy on held-out training samples, and judged on the test set.

    python -m benchmarks.schedule_search                ten seeds, and a policy; goes on if it was stopped
    python -m benchmarks.schedule_search --only 3       trains what seed 3 needs, and writes no figures

A search looks at many networks and takes the best, which gains by itself: `equal, best of 10 draws` is that gain alone,
for as many task trainings as twenty random schedules take. The policy is learnt on streams with other orders of the
classes, and used on ten more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.schedule_search.policy import train_policy
from benchmarks.schedule_search.search import (
    Search,
    equal_shares,
    follow,
    random_schedule,
    random_search,
    tree_search,
)
from benchmarks.schedule_search.stream import NUM_TASKS, SETTINGS, Stream
from drb.sampling.proportions.absolute_drop import AbsoluteDrop
from drb.sampling.proportions.global_drop import GlobalDrop
from drb.sampling.proportions.local_drop import LocalDrop

ITERATIONS, RANDOM, DRAWS = 60, 20, 10
LEARNT_ON, USED_ON, EPISODES = range(1000, 1006), range(2000, 2010), 240
HEURISTICS = (GlobalDrop(), LocalDrop(), AbsoluteDrop())


def compare(seed: int, folder: Path) -> dict[str, Any]:
    """The accuracy of each way on one seed, the task trainings that it took, and the schedule."""
    stream = Stream(seed, folder / f"seed-{seed}")
    more = Stream(seed, folder / f"seed-{seed}-twice", samples=20)
    draws = [Stream(seed, folder / f"seed-{seed}-draw-{draw}", draw=draw) for draw in range(1, DRAWS)]
    early: list[Search] = []

    def note(search: Search) -> None:
        if len(search.asked) <= len(found["random"].asked):
            early[:] = [Search(stream, set(search.asked), search.best)]

    found = {"equal": _single(stream), "equal, M = 20": _single(more)}
    best = max([found["equal"], *map(_single, draws)], key=lambda each: each.best[0])
    found["equal, best of 10 draws"] = Search(stream, set(), best.best)
    found["random"] = random_search(Search(stream), RANDOM, seed)
    found["tree"] = tree_search(Search(stream), ITERATIONS, seed, note)
    found["tree, as many trainings as random"] = early[0]
    for heuristic in HEURISTICS:
        found[heuristic.name] = follow(Search(stream), heuristic)
    trained = sum(each.trained for each in (stream, more, *draws))
    print(f"seed {seed}: {trained} task trainings", file=sys.stderr, flush=True)
    num_draws = DRAWS * (NUM_TASKS - 1) + 1  # the first task is alike
    return {
        name: {
            "accuracy": 100 * search.best[1],
            "validation": 100 * search.best[0],
            "trainings": len(search.asked) or num_draws,
            "schedule": search.best[2],
        }
        for name, search in found.items()
    }


def _single(stream: Stream) -> Search:
    search = Search(stream)
    search.try_schedule(equal_shares())
    return search


def compare_policy(folder: Path) -> dict[str, Any]:
    """A policy learnt on some streams, against equal shares and random schedules on others; accuracies in percent."""
    shuffled = ("scenario.class_order=shuffled",)
    learnt_on = [Stream(seed, folder / f"policy-{seed}", settings=shuffled) for seed in LEARNT_ON]
    policy, trainings = train_policy(learnt_on, EPISODES, seed=0)
    rows: dict[int, dict[str, float]] = {}
    for seed in USED_ON:
        stream = Stream(seed, folder / f"policy-{seed}", settings=shuffled)
        schedules = {
            "equal": equal_shares(),
            "policy": policy.run(stream),
            "random": random_schedule(np.random.default_rng((seed, 4))),
        }
        rows[seed] = {name: 100 * stream.after(schedule).accuracy for name, schedule in schedules.items()}
        for heuristic in HEURISTICS:
            rows[seed][heuristic.name] = 100 * follow(Search(stream), heuristic).best[1]
        print(f"policy, seed {seed}: {rows[seed]}", file=sys.stderr, flush=True)
    gains = {name: _mean([row[name] - row["equal"] for row in rows.values()]) for name in rows[USED_ON[0]]}
    return {"trainings": trainings, "episodes": EPISODES, "gain": gains, "seeds": rows}


def summary_of(rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and paired differences from equal shares, in points."""
    return {
        name: {
            "accuracy": _mean([row[name]["accuracy"] for row in rows.values()]),
            "gain": _mean([row[name]["accuracy"] - row["equal"]["accuracy"] for row in rows.values()]),
            "trainings": statistics.mean(row[name]["trainings"] for row in rows.values()),
        }
        for name in next(iter(rows.values()))
    }


def _mean(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "standard_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="SEED|policy", help="train what this needs, and write no figures")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds (10)")
    parser.add_argument("--no-policy", action="store_true", help="leave the learnt policy out")
    parser.add_argument("--folder", type=Path, default=Path("runs/schedule_search"), help="checkpoints and results")
    options = parser.parse_args()
    if options.only == "policy":
        print(compare_policy(options.folder))
    elif options.only is not None:
        print(compare(int(options.only), options.folder))
    else:
        rows = {seed: compare(seed, options.folder) for seed in range(options.seeds)}
        figures = {"settings": list(SETTINGS), "summary": summary_of(rows), "seeds": rows}
        policy = {} if options.no_policy else {"policy": compare_policy(options.folder)}
        record.save("schedule_search", {**figures, **policy})


if __name__ == "__main__":
    main()
