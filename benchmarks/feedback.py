"""Claim: proportions that learn from feedback take at most 50 µs a step more than `uniform`, with 1,000 strata.

`training_thread`: `extend` and `feedback` of one of two real ranks of this machine, in CPU time of its training thread,
beside `uniform` and `uniform` once more (A/A), in turns; with rounds on a worker, and inline. Buffers are full.
`round_of_8`: of a round of eight ranks, seven simulated by their messages: this rank's sums, those of all ranks,
the weights and the draw, less the draw of `uniform`. Where rounds are inline this is on the training thread, too.

    python benchmarks/feedback.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interleaved import medians_us

from drb import Rehearsal
from drb.rehearsal.observing import FeedbackRows, Observing
from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Sampler

STRATA, CAPACITY, B, R = 1000, 2000, 32, 8
LEARNING = ("mix_cd", "loss_aware", "adaptive", "grasp")
KINDS = {"uniform": "uniform", "uniform again": "uniform", "balanced": "balanced"} | {name: name for name in LEARNING}
TARGET_US = 50.0


def minibatch(rank: int, step: int) -> dict[str, torch.Tensor]:
    """Samples that come again after the buffer is full: nothing changes any more."""
    ids = (torch.arange(B) + step * B) % (CAPACITY - CAPACITY % B) * 2 + rank
    return {"image": torch.zeros(B, 16, dtype=torch.uint8), "label": ids % STRATA, "sample_id": ids}


def run_rank(rank: int, world_size: int, folder: str, steps: int) -> None:
    """Write the µs per step of each kind, of the training thread's CPU time, less those of uniform in the same step."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world_size)
    found = {}
    for way, asynchronous in (("worker", True), ("inline", False)):
        with ExitStack() as stack:
            options: Any = {"asynchronous": asynchronous, "exchange": "shared", "verbose": False}
            rehearsals = {
                name: stack.enter_context(Rehearsal(CAPACITY, R, proportions=kind, **options))
                for name, kind in KINDS.items()
            }
            times: dict[str, list[float]] = {name: [] for name in KINDS}
            for step in range(CAPACITY // B + 20 + steps):
                data, loss, right = minibatch(rank, step), torch.rand(R), torch.rand(R) > 0.3
                for name, rehearsal in rehearsals.items():
                    start = time.thread_time_ns()
                    batch = rehearsal.extend(data)
                    if name in LEARNING and len(batch["label"]) > B:
                        rehearsal.feedback(loss=loss, correct=right)
                    times[name].append((time.thread_time_ns() - start) / 1000)
            steady = {name: np.array(each[-steps:]) for name, each in times.items()}
            medians = {name: statistics.median(each - steady["uniform"]) for name, each in steady.items()}
            found[way] = {"uniform": statistics.median(steady["uniform"])} | {
                f"{name} - uniform": value for name, value in medians.items() if name != "uniform"
            }
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def of_two_ranks(steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, (2, folder, steps), nprocs=2)
        return json.loads(Path(folder, "found.json").read_text())


class Round:
    """What a round of 8 ranks does with feedback, and its draw."""

    def __init__(self, kind: str, world_size: int = 8) -> None:
        rng = np.random.default_rng(0)
        self.proportions = PROPORTIONS.build(kind)
        self.sampler = Sampler(R, self.proportions, seed=0, rank=1)
        self.observing = Observing(R, self.proportions.observe)
        self.strata = np.arange(STRATA)
        self.counts = rng.integers(0, 4, (world_size, STRATA if self.proportions.needs_strata else 1))
        self.offered = self.counts.sum(axis=1)
        self.messages = np.zeros((world_size, self.observing.words), np.int64)
        self.rows = FeedbackRows(rng.integers(0, STRATA, R), rng.random(R), rng.random(R) > 0.5)
        for message in self.messages:
            self.observing.write(FeedbackRows(rng.integers(0, STRATA, R), rng.random(R), rng.random(R) > 0.5), message)
        self.numbers = itertools.count()

    def run(self) -> None:
        if self.proportions.needs_feedback:
            self.observing.write(self.rows, self.messages[1])
            self.observing.observe(self.messages)
        self.sampler.draw(next(self.numbers), self.counts, self.offered, 0, self.strata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rounds = {name: Round(kind).run for name, kind in KINDS.items()}
    medians = medians_us(rounds, 200 if quick else 3000)
    more = {f"{name} - uniform": value - medians["uniform"] for name, value in medians.items() if name != "uniform"}
    of_two = of_two_ranks(100 if quick else 1500)
    learning = [f"{name} - uniform" for name in LEARNING]
    largest = max([more[name] for name in learning] + [of_two[way][name] for way in of_two for name in learning])
    figures = {"round_of_8_us": {"uniform": medians["uniform"], **more}, "training_thread_us": of_two}
    record.save("feedback", {**figures, "largest_us": largest, "target_us": TARGET_US})
    sys.exit(largest > TARGET_US)


if __name__ == "__main__":
    main()
