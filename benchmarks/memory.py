"""Claim: a buffer takes the memory of its rows, at most 5 % and 64 bytes a record more, and none is added over time.

At 20,000 records: everything that Python and numpy allocated for a rehearsal on one rank (tracemalloc), less the
spare rows and the blocks in which exemplars and minibatches travel, which are stated. A small rehearsal comes first:
modules that it makes Python import (1.2 MB) are no part of a buffer. Then 10^5 rounds, the growth of the process's
resident memory after the first tenth.

    python benchmarks/memory.py [--quick]
"""

from __future__ import annotations

import argparse
import tracemalloc

import psutil
import record
import torch

from drb import Rehearsal

RECORDS, BATCH, EXEMPLARS = 20_000, 64, 7
METADATA_BYTES = 64


def minibatch(step: int, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    ids = torch.arange(step * BATCH, (step + 1) * BATCH)
    return {"data": torch.zeros((BATCH, *shape), dtype=dtype), "label": ids % 10, "sample_id": ids}


def of_a_full_buffer(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float]:
    with Rehearsal(capacity=BATCH, exemplars=EXEMPLARS, seed=0, verbose=False) as rehearsal:
        for step in range(4):
            rehearsal.extend(minibatch(step, shape, dtype))
    tracemalloc.start()
    with Rehearsal(capacity=RECORDS, exemplars=EXEMPLARS, seed=0, verbose=False) as rehearsal:
        for step in range(2 * RECORDS // BATCH):
            rehearsal.extend(minibatch(step, shape, dtype))
        used = tracemalloc.get_traced_memory()[0]
        memory = rehearsal._running.parts.memory_bytes()
    tracemalloc.stop()
    row_bytes = memory["rows"] / RECORDS
    stated = memory["spare rows"] + memory["staging"]
    target = RECORDS * (1.05 * row_bytes + METADATA_BYTES)
    return {
        "row_bytes": row_bytes,
        "used_bytes": used,
        "spare_rows_bytes": memory["spare rows"],
        "staging_bytes_at_most": memory["staging"],
        "used_over_rows": (used - stated) / memory["rows"],
        "beyond_rows_per_record_bytes": (used - stated - memory["rows"]) / RECORDS,
        "target_over_rows": target / memory["rows"],
        "holds": used - stated <= target,
    }


def growth(rounds: int) -> dict[str, float]:
    process, early = psutil.Process(), 0
    with Rehearsal(capacity=1000, exemplars=EXEMPLARS, seed=0, verbose=False) as rehearsal:
        for step in range(rounds):
            if step == rounds // 10:
                early = process.memory_info().rss
            rehearsal.extend(minibatch(step, (196,), torch.float32))
        grown = process.memory_info().rss - early
    return {
        "rounds": rounds,
        "grown_bytes": grown,
        "grown_bytes_per_round": grown / (0.9 * rounds),
        "holds": grown < 4 << 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    figures = {"small, 20,000 records": of_a_full_buffer((784,), torch.float32)}
    if not quick:
        figures["image, 20,000 records"] = of_a_full_buffer((3, 224, 224), torch.uint8)
    figures["over time"] = growth(10_000 if quick else 100_000)
    record.save("memory", figures)


if __name__ == "__main__":
    main()
