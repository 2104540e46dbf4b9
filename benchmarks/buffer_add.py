"""Claim: storing a minibatch costs a row scatter of the same rows, 80 µs and 0.2 µs a record.

Adding is what `extend` does with a minibatch: check it, hash its ids, decide (keyed reservoir, buffer full), copy
what is admitted into rows, publish it. Reference: one numpy assignment of ready-made rows. Cases: every record
admitted (keys fall from minibatch to minibatch; the eviction pool's refill is part of the mean), a stream of new ids
late in a run (few admitted), and an epoch over known ids.

    python benchmarks/buffer_add.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import record
import torch
from interleaved import RECORDS, of_runs

from drb.buffer.admission import build_admission
from drb.buffer.buffer import Buffer
from drb.buffer.record import HEADER_WORDS, Field, RecordSpec
from drb.buffer.spares import spare_rows
from drb.buffer.storage import HeapStorage
from drb.rehearsal.intake import Intake
from drb.rehearsal.settings import RehearsalSettings
from drb.seeding import sample_keys

CAPACITY, SEED = 2000, 0
FIXED_US, PER_RECORD_US = 80.0, 0.2


class Adding:
    """A full buffer and the part of a step that stores a minibatch."""

    def __init__(self, spec: RecordSpec, batch_size: int) -> None:
        self._spec, self._batch_size, self._round = spec, batch_size, 0
        rows = HeapStorage(CAPACITY + spare_rows(CAPACITY, batch_size), spec.words).rows
        rows.fill(1)  # pages that are there
        self.buffer = Buffer(spec, CAPACITY, rows, build_admission("reservoir", candidates=None, seed=SEED, rank=0))
        self._intake = Intake(RehearsalSettings(capacity=CAPACITY, exemplars=7, seed=SEED), 0, 1)
        self._fields = {
            name: torch.zeros((batch_size, *f.shape), dtype=f.dtype).random_(0, 100) for name, f in spec.fields.items()
        }

    def add(self, ids: np.ndarray) -> int:
        minibatch = {**self._fields, "sample_id": torch.from_numpy(ids)}
        offer, fields = self._intake.take(minibatch, self._spec, self._batch_size, self._round)
        self._round += 1
        admitted = self.buffer.stage(fields, offer)
        self.buffer.commit()
        self.buffer.hand_in()
        self.buffer.release()
        return admitted


def ids_by_falling_key(count: int) -> np.ndarray:
    ids = np.arange(count)
    return ids[np.argsort(sample_keys(ids, SEED))[::-1]]


def measure(kind: str, batch_size: int, steps: int) -> dict[str, float]:
    words = RECORDS[kind] // 8
    field = Field(torch.uint8, (RECORDS[kind],)) if kind == "image" else Field(torch.float32, (RECORDS[kind] // 4,))
    spec = RecordSpec({"data": field, "label": Field(torch.int64)})
    falling = ids_by_falling_key(CAPACITY + (steps + 2) * batch_size)
    all_new, late, again = Adding(spec, batch_size), Adding(spec, batch_size), Adding(spec, batch_size)
    for ids in batches(falling[:CAPACITY], batch_size):
        all_new.add(ids)
    stream = np.arange(60 * CAPACITY + (steps + 2) * batch_size)
    for ids in batches(stream[: 60 * CAPACITY], batch_size):
        late.add(ids)
    epoch = np.random.default_rng(0).permutation(10 * CAPACITY)
    for ids in batches(epoch, batch_size):
        again.add(ids)

    # from memory such as minibatches lie in: numpy's has larger pages than torch's, and is read faster
    ready = torch.randint(0, 1 << 60, (batch_size, words + HEADER_WORDS + 1)).numpy()
    target, rng = np.ones((CAPACITY, ready.shape[1]), np.int64), np.random.default_rng(2)
    where = [rng.choice(CAPACITY, batch_size, replace=False) for _ in range(steps)]
    cases: dict[str, tuple[Callable[[np.ndarray], object], list[np.ndarray]]] = {
        "all admitted": (all_new.add, list(batches(falling[CAPACITY:], batch_size))),
        "late in a stream": (late.add, list(batches(stream[60 * CAPACITY :], batch_size))),
        "known ids": (again.add, list(batches(np.resize(epoch, (steps + 1) * batch_size), batch_size))),
        "row scatter": (lambda rows: target.__setitem__(rows, ready), where),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    admitted = 0
    for step in range(steps):
        for name, (action, arguments) in cases.items():
            start = time.perf_counter()
            result = action(arguments[step])
            times[name].append(1e6 * (time.perf_counter() - start))
            if name == "all admitted":
                admitted += int(result)  # type: ignore[call-overload]
    if admitted != steps * batch_size:
        raise SystemExit(f"only {admitted} of {steps * batch_size} records were admitted")
    medians = {f"{name}_us": statistics.median(values) for name, values in times.items()}
    # the refill of the eviction pool comes every few hundred evictions: the mean without the machine's hiccups
    calm = sorted(times["all admitted"])[: max(1, int(0.98 * steps))]
    return {**medians, "all admitted, mean_us": statistics.mean(calm)}


def batches(ids: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(ids) - batch_size + 1, batch_size):
        yield np.ascontiguousarray(ids[start : start + batch_size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    figures = {}
    for kind in RECORDS:
        for batch_size in (7, 64, 256):
            steps = max(20, (2_000 if quick else 20_000) // batch_size)
            result = of_runs([measure(kind, batch_size, steps) for _ in range(2 if quick else 5)])
            target = result["row scatter_us"] + FIXED_US + PER_RECORD_US * batch_size
            slowest = max(result["all admitted_us"], result["all admitted, mean_us"])
            figures[f"{kind}, {batch_size} records"] = {**result, "target_us": target, "holds": slowest <= target}
    record.save("buffer_add", figures)


if __name__ == "__main__":
    main()
