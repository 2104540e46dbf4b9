"""Claim: what a round costs a rank does not grow with the number of ranks, beyond a few integers per rank.

W = 1 … 16 ranks on this machine, many more than its cores: so no wall time, but per rank and round the CPU of the
worker's thread, the messages (all_to_all counts one per peer that gets any) and the bytes that leave the rank, rows
and integers apart. r = 7 records of 150 KB out of 1,024 that all ranks together hold: with as many per rank the
caches of one machine, which hold what few ranks have and not what many have, would be what is measured. `apart`: as
many ranks that know nothing of one another, each with a buffer of its own: what sharing two cores costs by itself.

Targets, by W from 2 on: for `shared` and `rma` flat, at most 1.25 times what two ranks have, both of CPU in microsec.
and of CPU over `apart`; for `collective` at most linear in the number of other ranks, whose constant is shown.

    python benchmarks/scaling.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from drb import Rehearsal

EXEMPLARS, BATCH, ROUNDS, UNION = 7, 8, 60, 1024
FLAT, LINEAR = 1.25, 1.05  # times what there is with the fewest ranks
SENT = ("messages", "integer_bytes", "row_bytes")


class Counter:
    """Counts what torch.distributed's all_to_all_single sends to other ranks."""

    def __init__(self) -> None:
        self.messages = self.integer_bytes = self.row_bytes = 0
        self._real = dist.all_to_all_single
        dist.all_to_all_single = self._counted

    def _counted(self, output: Any, input: Any, output_splits: Any = None, input_splits: Any = None, **kw: Any) -> Any:
        ranks, own = dist.get_world_size(kw["group"]), dist.get_rank(kw["group"])
        splits = input_splits or [len(input) // ranks] * ranks
        item = input[:1].nbytes if len(input) else 0
        sent = sum(n for rank, n in enumerate(splits) if rank != own) * item
        self.messages += sum(n > 0 for rank, n in enumerate(splits) if rank != own)
        if item > 10_000:
            self.row_bytes += sent
        else:
            self.integer_bytes += sent
        return self._real(output, input, output_splits, input_splits, **kw)


def run_rank(rank: int, world_size: int, rendezvous: str, exchange: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    if exchange == "hierarchical":
        Rehearsal._factory.node = lambda: f"node {2 * rank // world_size}"  # type: ignore[method-assign]
    alone = dist.new_subgroups(group_size=1)[0] if exchange == "apart" else None
    counter = Counter()
    images = torch.zeros((BATCH, 150_528), dtype=torch.uint8)
    with Rehearsal(
        capacity=UNION // world_size,
        exemplars=EXEMPLARS,
        seed=0,
        exchange="auto" if alone else exchange,
        asynchronous=True,
        verbose=False,
        process_group=alone,
    ) as rehearsal:
        warm_up = UNION // world_size // BATCH + 12
        for step in range(warm_up + ROUNDS):
            if step == warm_up:  # buffers are full
                before = rehearsal.stats()
                counter.messages = counter.integer_bytes = counter.row_bytes = 0
            ids = (torch.arange(BATCH) + step * BATCH) * world_size + rank
            rehearsal.extend({"image": images, "label": ids % 10, "sample_id": ids})
        after = rehearsal.stats()
        sent = [counter.messages, counter.integer_bytes, counter.row_bytes]
    cpu = (after["worker_cpu_seconds"] - before["worker_cpu_seconds"]) / (after["rounds"] - before["rounds"])
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, [1e6 * cpu, *(x / ROUNDS for x in sent)])
    if rank == 0:
        means = np.mean(everyone, axis=0).tolist()
        names = ("cpu_us", "messages", "integer_bytes", "row_bytes")
        Path(results).write_text(json.dumps(dict(zip(names, means, strict=True))))
    dist.destroy_process_group()


def with_ranks(exchange: str, world_size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (world_size, f"{scratch}/rendezvous", exchange, f"{scratch}/results")
        if exchange == "rma":
            mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            command = [str(mpiexec), "-n", str(world_size), sys.executable, __file__, "--rank-of", *arguments[1:]]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
        else:
            mp.start_processes(run_rank, arguments, nprocs=world_size, start_method="forkserver")
        found: dict[str, float] = json.loads(Path(arguments[-1]).read_text())
    return found


def medians(exchange: str, world_size: int, repeats: int) -> dict[str, float]:
    runs = [with_ranks(exchange, world_size) for _ in range(repeats)]
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(exchange, world_size, found, file=sys.stderr, flush=True)
    return found


def verdicts(figures: dict[str, dict[str, float]], worlds: Sequence[int]) -> dict[str, Any]:
    """Whether each figure that has a target meets it, over all W."""

    def of(exchange: str, name: str) -> list[float]:
        return [figures[f"{exchange}, W={world_size}"][name] for world_size in worlds]

    found, apart = {}, of("apart", "cpu_us")
    for exchange in ("shared", "rma"):
        cpu = of(exchange, "cpu_us")
        found[f"{exchange}, cpu_us"] = _grows(cpu, FLAT)
        found[f"{exchange}, cpu over apart"] = _grows([a / b for a, b in zip(cpu, apart, strict=True)], FLAT)
        found |= {f"{exchange}, {name}": _grows(of(exchange, name), FLAT) for name in SENT}
    for name in ("cpu_us", *SENT):
        each = [value / (world_size - 1) for value, world_size in zip(of("collective", name), worlds, strict=True)]
        found[f"collective, {name} per other rank"] = _grows(each, LINEAR)
    return found


def _grows(values: list[float], factor: float) -> dict[str, Any]:
    """values: from the fewest ranks to the most."""
    target = factor * values[0]
    return {"with_fewest_ranks": values[0], "most": max(values), "target": target, "holds": max(values) <= target}


def main() -> None:
    if "--rank-of" in sys.argv:  # started by mpiexec
        rendezvous, exchange, results = sys.argv[2:]
        run_rank(int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"]), rendezvous, exchange, results)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "drb"])  # W ranks start in a second
    worlds, repeats = ((2, 4), 1) if quick else ((2, 4, 8, 16), 5)
    figures: dict[str, Any] = {"W=1": medians("auto", 1, repeats)}
    for exchange in ("apart", "shared", "collective", "hierarchical", "rma"):
        for world_size in worlds:
            if exchange == "hierarchical" and world_size < 4:
                continue
            figures[f"{exchange}, W={world_size}"] = medians(exchange, world_size, repeats)
    record.save("scaling", figures | {"targets": verdicts(figures, worlds)})


if __name__ == "__main__":
    main()
