"""Claim: reading random records out of a buffer costs the best plain row gather and at most 5 µs.

Reading is what the owner of a buffer does in a fetch: positions → rows → one block that is reused. Reference: the
faster of `np.take(out=, mode="clip")` and torch's `index_select(out=)` over the same rows.

    python benchmarks/buffer_gather.py [--quick]
"""

from __future__ import annotations

import argparse

import numpy as np
import record
import torch
from interleaved import RECORDS, medians_us, of_runs

from drb.buffer.record import Field, RecordSpec
from drb.exchange import LoopbackExchange

CAPACITY, EXTRA_US = 2000, 5.0


def measure(kind: str, count: int, repeats: int) -> dict[str, float]:
    words = RecordSpec({"data": Field(torch.uint8, (RECORDS[kind],)), "label": Field(torch.int64)}).words
    exchange = LoopbackExchange(CAPACITY, words)
    exchange.rows[:] = np.arange(CAPACITY)[:, None]
    rng = np.random.default_rng(0)
    table = rng.permutation(CAPACITY)
    exchange.publish(table, True)
    out, owners = np.empty((count, words), np.int64), np.zeros(count, np.int64)
    rows, tensor_rows, tensor_out = exchange.rows, torch.from_numpy(exchange.rows), torch.from_numpy(out)

    positions = [np.sort(rng.choice(CAPACITY, count, replace=False)) for _ in range(64)]
    places = {"fetch": positions}
    places["take"] = places["index_select"] = [table[drawn] for drawn in positions]  # the same rows in the same order
    turn = dict.fromkeys(places, 0)

    def next_of(name: str) -> np.ndarray:
        turn[name] += 1
        return places[name][turn[name] % len(positions)]

    result = medians_us(
        {
            "np.take_us": lambda: np.take(rows, next_of("take"), axis=0, out=out, mode="clip"),
            "index_select_us": lambda: torch.index_select(
                tensor_rows, 0, torch.from_numpy(next_of("index_select")), out=tensor_out
            ),
            "fetch_us": lambda: exchange.fetch(owners, next_of("fetch"), out),
        },
        repeats,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    figures = {}
    for kind in RECORDS:
        for count in (7, 64, 256):
            repeats = max(100, (5_000 if quick else 30_000) // count)
            result = of_runs([measure(kind, count, repeats) for _ in range(3 if quick else 5)])
            target = min(result["np.take_us"], result["index_select_us"]) + EXTRA_US
            figures[f"{kind}, {count} records"] = {**result, "target_us": target, "holds": result["fetch_us"] <= target}
    record.save("buffer_gather", figures)


if __name__ == "__main__":
    main()
