"""Claim: a round costs what its transport costs bare.

On W ranks of this machine, r records of 150 KB: the fetch alone and the whole round (publish, sizes, draw, fetch),
side by side with the bare transport of the same rows in the same run:

    shared       one np.take of r rows in one process; the whole round at most 150 µs more than 1.3 of it
    collective   gather, one index message, one uneven all_to_all_single: the whole round at most 1.3 of that
    hierarchical (2 nodes simulated) as collective
    rma          Win.Get of the same rows: the whole round at most 150 µs more than 1.3 of it; under mpiexec

Rounds and bare transports take turns, a few of a kind back to back, as rounds follow one another in a run: ranks leave
the barrier between two turns up to 200 µs apart here, which is no part of either.

    python benchmarks/exchange_fetch.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from drb.buffer.record import Field, RecordSpec
from drb.exchange import open_peers
from drb.rehearsal.build_parts import PartsFactory, build_parts
from drb.rehearsal.parts import Parts
from drb.rehearsal.settings import RehearsalSettings

SPEC = RecordSpec({"image": Field(torch.uint8, (150_528,)), "label": Field(torch.int64)})
CAPACITY = 500
FACTOR, EXTRA_US = 1.3, 150.0
BLOCK = 5  # of a kind in a turn


class Rank:
    """A rank with a full buffer, its rounds, and the bare transport next to them."""

    def __init__(self, exchange: str, exemplars: int) -> None:
        self.peers = open_peers(None, 60.0)
        assert self.peers is not None
        factory = PartsFactory()
        if exchange == "hierarchical":
            rank, world_size = self.peers.rank, self.peers.world_size
            factory.node = lambda: f"node {2 * rank // world_size}"  # type: ignore[method-assign]
        settings = RehearsalSettings(capacity=CAPACITY, exemplars=exemplars, exchange=exchange, asynchronous=False)
        self.parts: Parts = build_parts(settings, SPEC, 64, self.peers, factory=factory)
        self.rng = np.random.default_rng(self.peers.rank)
        self._fill()
        self.round = 0

    def _fill(self) -> None:
        from drb.buffer.admission import Offer

        buffer, rank = self.parts.buffer, self.peers.rank
        buffer.rows[:] = 1  # pages that are there
        data = torch.zeros((50, 150_528), dtype=torch.uint8)
        for start in range(0, CAPACITY, 50):
            ids = rank * CAPACITY + np.arange(start, start + 50)
            buffer.stage(
                {"image": data, "label": torch.zeros(50, dtype=torch.int64)},
                Offer(ids, ids % 10, ids.astype(np.uint64), 0),
            )
            buffer.commit()

    def whole_round(self) -> None:
        self.parts.run_round(self.round)
        self.round += 1

    def gather(self, exemplars: int) -> Callable[[], None]:
        """r rows of this rank's own buffer."""
        rows, out = self.parts.buffer.rows, np.ones((exemplars, SPEC.words), np.int64)

        def run() -> None:
            np.take(rows, self.rng.integers(0, CAPACITY, exemplars), axis=0, out=out, mode="clip")

        return run

    def bare_all_to_all(self, exemplars: int) -> Callable[[], None]:
        """An index message, a gather, an uneven all_to_all_single: counts are known beforehand."""
        world_size, rank, group = self.peers.world_size, self.peers.rank, self.peers.group
        draws = np.random.default_rng(0).multinomial(exemplars, [1 / world_size] * world_size, size=world_size)
        mine, theirs = draws[rank].tolist(), draws[:, rank].tolist()
        wanted = torch.empty(sum(theirs), dtype=torch.int64)
        out = torch.ones((exemplars, SPEC.words), dtype=torch.int64)
        rows, outgoing = self.parts.buffer.rows, np.ones((sum(theirs), SPEC.words), np.int64)

        def run() -> None:
            asked = torch.from_numpy(np.sort(self.rng.integers(0, CAPACITY, exemplars)))
            dist.all_to_all_single(wanted, asked, theirs, mine, group=group)
            np.take(rows, wanted.numpy(), axis=0, out=outgoing, mode="clip")
            dist.all_to_all_single(out, torch.from_numpy(outgoing), mine, theirs, group=group)

        return run

    def bare_get(self, exemplars: int) -> Callable[[], None]:
        """Win.Get of r rows, offsets known beforehand."""
        window, out = self.parts.exchange._window, np.ones((exemplars, SPEC.words), np.int64)  # type: ignore[attr-defined]
        world_size = self.peers.world_size

        def run() -> None:
            owners = np.sort(self.rng.integers(0, world_size, exemplars))
            window.read(owners, self.rng.integers(0, CAPACITY, exemplars) * SPEC.words, out)

        return run


def measure(exchange: str, exemplars: int, repeats: int) -> dict[str, float]:
    """Medians of this rank in µs; all ranks run the same actions in the same order."""
    rank = Rank(exchange, exemplars)
    bare = {"shared": rank.gather, "collective": rank.bare_all_to_all, "hierarchical": rank.bare_all_to_all}
    actions: dict[str, Callable[[], None]] = {
        "round_us": rank.whole_round,
        "bare_us": bare.get(exchange, rank.bare_get)(exemplars),
    }
    times: dict[str, list[float]] = {name: [] for name in [*actions, "fetch_us"]}
    for _ in range(repeats):
        for name, action in actions.items():
            rank.peers.barrier("turn")
            fetched = rank.parts.runner.times.fetch
            start = time.perf_counter()
            for _ in range(BLOCK):
                action()
            times[name].append(1e6 * (time.perf_counter() - start) / BLOCK)
            if name == "round_us":
                times["fetch_us"].append(1e6 * (rank.parts.runner.times.fetch - fetched) / BLOCK)
    result = {name: statistics.median(values[repeats // 10 :]) for name, values in times.items()}
    rank.peers.barrier("end")
    rank.parts.exchange.close(together=True)
    return result


def run_rank(rank: int, world_size: int, rendezvous: str, exchange: str, repeats: int, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    found = {str(r): measure(exchange, r, repeats) for r in (7, 64)}
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def with_ranks(exchange: str, world_size: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (world_size, f"{scratch}/rendezvous", exchange, repeats, f"{scratch}/results")
        if exchange == "rma":
            mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            command = [
                str(mpiexec),
                "-n",
                str(world_size),
                sys.executable,
                __file__,
                "--rank-of",
                *map(str, arguments[1:]),
            ]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
        else:
            mp.spawn(run_rank, arguments, nprocs=world_size)
        found: dict[str, Any] = json.loads(Path(arguments[-1]).read_text())
    return found


def verdict(exchange: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    target = FACTOR * median["bare_us"] + (EXTRA_US if exchange in ("shared", "rma") else 0)
    return {
        **median,
        "fetch_over_bare": median["fetch_us"] / median["bare_us"],
        "round_target_us": target,
        "holds": median["round_us"] <= target
        and (exchange != "shared" or median["fetch_us"] <= FACTOR * median["bare_us"]),
    }


def main() -> None:
    if "--rank-of" in sys.argv:  # started by mpiexec
        rendezvous, exchange, repeats, results = sys.argv[2:]
        rank, world_size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])
        run_rank(rank, world_size, rendezvous, exchange, int(repeats), results)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    figures: dict[str, Any] = {}
    for world_size in (2,) if quick else (2, 4):
        for exchange in ("shared", "collective", "hierarchical", "rma"):
            if exchange == "hierarchical" and world_size < 4:
                continue
            runs = [with_ranks(exchange, world_size, 20 if quick else 60) for _ in range(1 if quick else 5)]
            for r in ("7", "64"):
                figures[f"{exchange}, W={world_size}, r={r}"] = verdict(exchange, [run[r] for run in runs])
    record.save("exchange_fetch", figures)


if __name__ == "__main__":
    main()
