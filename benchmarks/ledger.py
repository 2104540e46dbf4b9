"""Claim: the ledger of rehearsal costs less than 1 % of a step of 3 ms, takes at most 3 bytes a drawn sample up to ten
million of them, and names what a step was trained on in less than a second.

One rank, minibatches of 56, 7 exemplars from a buffer of 2,000 as in arXiv 2406.03285, epochs over 200,000 samples, a
checkpoint every 5,000 steps. `ledger_us` is the difference that a recorder makes to `extend`, rounds inline, in turns
with a rehearsal without one. `audit_s` is what the answer for a step at random takes, at most of eight,
`sample_s` that for a sample, which every step with it in a buffer is drawn again for, and `mixture_s` that for the run;
all with reading the files and without the start of Python.

    python benchmarks/ledger.py [--quick] [--case NAME]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
import torch

from drb import Rehearsal
from drb.data.datasets import TensorSource
from drb.data.loader import TaskLoader
from drb.rehearsal.ledger.dealt import Dealing, Stretch
from drb.rehearsal.ledger.file import LedgerWriter, bytes_of
from drb.rehearsal.ledger.recorder import Recorder
from drb.runs.rehearsed import RehearsalLedger, read_rehearsal_ledger
from drb.types import Minibatch

TARGET_US, TARGET_BYTES, TARGET_S = 30.0, 3.0, 1.0
ROWS, EXEMPLARS, CAPACITY, SAMPLES, CLASSES = 56, 7, 2000, 200_000, 100
SAVED_EVERY, TURN = 5000, 1024  # steps
CASES: dict[str, dict[str, Any]] = {
    "reservoir": {},
    "class_balanced": {"admission": "class_balanced", "proportions": "balanced"},
    "fifo": {"admission": "fifo"},
    "random_replacement, c=14": {"admission": "random_replacement", "candidates": 14},
}


def source() -> TensorSource:
    ids = torch.arange(SAMPLES)
    return TensorSource({"sample_id": ids, "label": ids % CLASSES, "image": torch.zeros(SAMPLES, 8, dtype=torch.uint8)})


def minibatches(steps: int, recorder: Recorder | None) -> Iterator[Minibatch]:
    """Epochs of a loader, announced to a recorder as the trainer does it."""
    data, taken, epoch = source(), 0, 0
    loader = TaskLoader(data, ROWS, seed=1)
    task = None if recorder is None else recorder.begin_task("task 1", data.sample_ids)
    while taken < steps:
        if recorder is not None and task is not None:
            dealing = Dealing(seed=1, world_size=1, batch_size=ROWS, epoch=epoch)
            recorder.begin_stretch(Stretch(taken, loader.num_batches, taken, 1, task, dealing))
        for minibatch in loader.epoch(epoch):
            yield minibatch
            taken += 1
            if taken == steps:
                return
        epoch += 1


def run(
    settings: dict[str, Any],
    steps: int,
    recorder: Recorder | None,
    folder: Path,
    watched: dict[int, list[int]] | None = None,
) -> Iterator[float]:
    """Train, and give the microseconds of a step after each turn. watched: steps, to be given their exemplars."""
    writer = None if recorder is None else LedgerWriter(folder, recorder, 0, 0)
    with Rehearsal(
        CAPACITY, EXEMPLARS, verbose=False, batch_size=ROWS + 1, asynchronous=False, stratum="label", **settings
    ) as rehearsal:
        if recorder is not None:
            rehearsal.recorder = recorder
        spent = 0
        for step, minibatch in enumerate(minibatches(steps, recorder), 1):
            start = time.perf_counter_ns()
            batch = rehearsal.extend(minibatch)
            spent += time.perf_counter_ns() - start
            if watched is not None and step in watched:
                watched[step] = batch["sample_id"][batch["rehearsed"]].tolist()
            if writer is not None and (step % SAVED_EVERY == 0 or step == steps):
                writer.take(step)
                writer.write()
            if step % TURN == 0:
                yield spent / TURN / 1000
                spent = 0


def cost(settings: dict[str, Any], turns: int) -> float:
    """The microseconds that a recorder adds to a step: the median over turns."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(settings, turns * TURN, recorder, Path(folder)) for recorder in (Recorder(), None)]
        return statistics.median(logged - bare for logged, bare in zip(*runs, strict=True))


def size(settings: dict[str, Any], drawn: int) -> dict[str, float]:
    """Bytes of a ledger, and seconds of a look into it."""
    steps = drawn // EXEMPLARS
    with tempfile.TemporaryDirectory() as name:
        folder, rng, times = Path(name), random.Random(0), []
        watched: dict[int, list[int]] = {rng.randint(1, steps): [] for _ in range(8)}
        for _ in run(settings, steps, Recorder(), folder, watched):
            pass
        total = bytes_of(folder)
        for step, exemplars in watched.items():
            start = time.perf_counter()
            trained = read_rehearsal_ledger(folder).trained(step)
            times.append(time.perf_counter() - start)
            assert trained.rehearsed.tolist() == exemplars, step
        figures = {"drawn": steps * EXEMPLARS, "bytes_per_drawn": total / steps / EXEMPLARS, "audit_s": max(times)}
        for name, ask in (("mixture_s", RehearsalLedger.mixture), ("sample_s", lambda ledger: ledger.sample("17"))):
            start = time.perf_counter()
            ask(read_rehearsal_ledger(folder))
            figures[name] = time.perf_counter() - start
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--drawn", type=int, default=10_000_000, metavar="N", help="exemplars of the first case")
    parser.add_argument("--case", choices=CASES, help="this one only; the figures of the others stay as they were")
    options = parser.parse_args()
    figures: dict[str, Any] = {} if options.case is None else record.saved("ledger")
    for number, (name, settings) in enumerate(CASES.items()):
        if options.case not in (None, name):
            continue
        drawn = 100_000 if options.quick else options.drawn if number == 0 else options.drawn // 10
        result = {"ledger_us": cost(settings, 4 if options.quick else 40), **size(settings, drawn)}
        holds = result["ledger_us"] <= TARGET_US and result["bytes_per_drawn"] <= TARGET_BYTES
        figures[name] = {**result, "holds": holds and result["audit_s"] <= TARGET_S}
    record.save("ledger", figures, adds=options.case is not None)


if __name__ == "__main__":
    main()
