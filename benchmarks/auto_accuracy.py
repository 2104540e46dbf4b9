"""Claim: none. What exemplars=auto:accuracy keeps of the old, and with how many rows, beside constant numbers.

Class-incremental Split Fashion-MNIST, once through, an MLP, 1,000 exemplars. Accuracy after the last
task, of the tasks before it and of that one, and the mean number of rehearsed rows per step, for each way.

    python -m benchmarks.auto_accuracy            five seeds
    python -m benchmarks.auto_accuracy --quick    one
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from benchmarks import record
from drb.data.datasets import load_dataset
from drb.distributed.world import detect_world
from drb.program.build import build_trainer
from drb.program.config import compose_config
from drb.training import Monitor

WAYS = ("4", "8", "16", "auto:accuracy:0.01:16", "auto:accuracy:0.05:16")
SETTINGS = (
    "experiment=fashion_mnist_online",
    "training.batch_size=32",
    "optimizer.lr=0.05",
    "rehearsal.capacity=1000",
    "tracking=none",
    "checkpoint=none",
    "ledger=false",
)


def run(way: str, seed: int, dataset: Any) -> dict[str, float]:
    """Accuracies in percent, and rehearsed rows per step."""
    config = replace(compose_config([*SETTINGS, f"rehearsal.exemplars={way}"])[0], seed=seed)
    with ExitStack() as stack:
        trainer, rehearsal = build_trainer(config, detect_world("cpu"), dataset, Monitor(), None, None, stack)
        assert rehearsal is not None
        trainer.run()
        stats = rehearsal.stats()
    *old, new = [100 * float(value or 0) for value in trainer.scores.main.rows()[-1]]
    return {"old": statistics.mean(old), "new": new, "rows": stats["exemplars_fetched"] / stats["rounds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    seeds = range(1 if parser.parse_args().quick else 5)
    dataset = load_dataset("fashion_mnist")
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in seeds:
        for way in WAYS:
            rows[way].append(run(way, seed, dataset))
            print(f"seed {seed}, exemplars={way}: {rows[way][-1]}", file=sys.stderr, flush=True)
    summary = {
        way: {name: _mean([each[name] for each in of_way]) for name in of_way[0]} for way, of_way in rows.items()
    }
    record.save("auto_accuracy", {"settings": list(SETTINGS), "summary": summary, "seeds": rows})


def _mean(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "standard_error": error}


if __name__ == "__main__":
    main()
