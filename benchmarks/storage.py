"""Claim: a step with a buffer in a file (storage=mmap) costs at most 5 % more than one with a buffer in memory, while
the page cache has the file; and a buffer may be larger than the memory that a process may use.

- step: a training step with 64 new samples and 64 exemplars of 3 KiB, in turns in one process: two buffers in memory
  (A/A) and one in a file. Ratios of medians of blocks of 100 steps.
- small memory: a process in a control group (made as root) that leaves it a third of the file's size beside what Python
  and PyTorch take; the limit counts the page cache. It fills the buffer, then its steps are timed, and those of a
  process without a limit. A buffer of that size in memory is refused there.

    python benchmarks/storage.py [--quick] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import record
import torch
from interleaved import medians_us, upper_bound
from prefill import (
    EXEMPLARS,
    FILLED,
    MOST_RATIO,
    PROCESS_BYTES,
    Training,
    child,
    control_group,
    heap,
    minibatch,
    refused,
)

from drb import Rehearsal

BLOCK = 100  # steps


def in_file(count: int, folder: Path) -> Rehearsal:
    """A full buffer in a file."""
    where = {"storage": "mmap", "storage_folder": str(folder)}
    rehearsal = Rehearsal(capacity=count, exemplars=EXEMPLARS, seed=0, verbose=False, **where)
    for first in range(0, count, FILLED):
        rehearsal.extend(minibatch(first, FILLED))
    return rehearsal


def steps_in_turns(count: int, folder: Path, blocks: int) -> dict[str, Any]:
    ratios: dict[str, list[float]] = {"memory again": [], "file": []}
    with heap(count) as first, heap(count) as second, in_file(count, folder) as mapped:
        actions = {"memory": Training(first), "memory again": Training(second), "file": Training(mapped)}
        medians_us(actions, 50)
        for _ in range(blocks):
            found = medians_us(actions, BLOCK)
            for name, values in ratios.items():
                values.append(found[name] / found["memory"])
    ratio = statistics.median(ratios["file"])
    return {
        "step_us_in_memory": found["memory"],
        "ratio": ratio,
        "ratio_upper_bound": upper_bound(ratios["file"]),
        "ratio_of_memory_to_memory": statistics.median(ratios["memory again"]),
        "holds": ratio <= MOST_RATIO,
    }


def timed(folder: Path, count: int) -> dict[str, float]:
    """In a process of its own: seconds to fill the buffer, and the steps afterwards."""
    start, times = time.perf_counter(), []
    with in_file(count, folder) as rehearsal:
        filled, train = time.perf_counter() - start, Training(rehearsal)
        before = rehearsal.stats()
        for _ in range(300):
            begun = time.perf_counter()
            train()
            times.append(time.perf_counter() - begun)
        stats = rehearsal.stats()
        file_bytes = rehearsal._running.parts.buffer.rows.nbytes  # type: ignore[union-attr]
    rounds = stats["rounds"] - before["rounds"]
    return {
        "file_bytes": file_bytes,
        "fill_seconds": filled,
        "step_ms": statistics.median(times) * 1e3,
        "largest_step_ms": max(times[2:]) * 1e3,
        "fetch_ms_per_round": (stats["fetch_seconds"] - before["fetch_seconds"]) / rounds * 1e3,
        "rss_bytes": psutil.Process().memory_info().rss,
    }


def in_small_memory(folder: Path, count: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"free": child("timed", folder, count, of=__file__)}
    size = int(figures["free"]["file_bytes"])
    if size < PROCESS_BYTES:
        return figures | {"control group": f"not measured: {size >> 20} MiB are less than what Python itself takes"}
    limit = size // 3 + PROCESS_BYTES
    if (group := control_group(limit)) is None:
        return figures | {"control group": "none may be made here"}
    try:
        figures["limit_bytes"] = limit
        figures["control group"] = child("timed", folder, count, group=group, of=__file__)
        figures["control group, in memory"] = child("refused", folder, count, group=group, of=__file__)
    finally:
        group.rmdir()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; by default in the temporary folder")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part:
        part, folder, count = options.part
        print(json.dumps(refused(int(count)) if part == "refused" else timed(Path(folder), int(count))))
        return
    count = 10_000 if options.quick else 200_000
    figures: dict[str, Any] = {"records": count}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        parts = {
            "small memory": lambda: in_small_memory(Path(scratch), count),
            "step": lambda: steps_in_turns(count, Path(scratch), 3 if options.quick else 7),
        }
        for name, measure in parts.items():
            figures[name] = measure()
            print(name, figures[name], file=sys.stderr, flush=True)
    record.save("storage", figures)


if __name__ == "__main__":
    main()
