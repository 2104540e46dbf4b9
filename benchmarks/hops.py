"""How far a steady `extend` on two ranks goes through drb's files: calls, files, changes of file between two calls.

Ranks share memory (exchange=shared); each has seen enough minibatches to have a full buffer. Of several extends the
median counts, since how a rank meets the others depends on who comes first. Two ways: rounds inline, where everything
is on the training thread, and rounds on a worker, whose calls are counted apart. The ledger is kept, as in every run.

    python benchmarks/hops.py [--show] [--drb FOLDER]

--show prints the calls of rank 0's last extend, indented by depth. --drb counts in another checkout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

B, CAPACITY, EXEMPLARS = 56, 200, 7
WARM_UP, EXTENDS = 40, 11
TRAINING, WORKER = "training thread", "worker"
_THREADS = {"MainThread": TRAINING, "drb-rehearsal": WORKER}
Call = tuple[int, str, str]  # depth, file, function


class Recorder:
    """The calls of functions in drb's files, by thread, while it is open."""

    def __init__(self, package: Path) -> None:
        self._package = f"{package}{os.sep}"
        self._is_open = False
        self._depth: dict[str, int] = {}
        self.calls: dict[str, list[Call]] = {}

    def profile(self, frame: FrameType, event: str, arg: object) -> None:
        """For `sys.setprofile`."""
        file = frame.f_code.co_filename
        if not self._is_open or event not in ("call", "return") or not file.startswith(self._package):
            return
        thread = _THREADS.get(threading.current_thread().name)
        if thread is None:  # the heartbeat's
            return
        depth = self._depth.get(thread, 0)
        if event == "call":
            name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
            self.calls.setdefault(thread, []).append((depth, file.removeprefix(self._package), name))
        self._depth[thread] = max(0, depth + (1 if event == "call" else -1))

    def record(self, call: Callable[[], Any]) -> dict[str, list[Call]]:
        """The calls of one extend, and of the round that it lets begin."""
        self._depth, self.calls = {}, {}
        self._is_open = True
        call()
        time.sleep(0.05)  # until the worker's round has ended
        self._is_open = False
        return self.calls


def hops(calls: list[Call]) -> dict[str, int]:
    """What one thread's calls come to."""
    files = [file for _, file, _ in calls]
    changes = sum(before != after for before, after in itertools.pairwise(files))
    return {"calls": len(calls), "files": len(set(files)), "changes of file": changes}


def steady_extends(rank: int, world_size: int, asynchronous: bool) -> list[dict[str, list[Call]]]:
    """The calls of each of several extends of this rank, by thread. Collective over the default group."""
    import drb
    from drb.rehearsal.ledger import recorder as ledger

    recorder = Recorder(Path(drb.__file__).parent)
    threading.setprofile(recorder.profile)  # for the worker, which does not run yet
    settings = {"seed": 0, "exchange": "shared", "asynchronous": asynchronous, "verbose": False}
    found: list[dict[str, list[Call]]] = []
    with drb.Rehearsal(CAPACITY, EXEMPLARS, **settings) as rehearsal:
        rehearsal.recorder = ledger.Recorder()
        for step in range(WARM_UP + EXTENDS):
            ids = torch.arange(B) + (step * world_size + rank) * B
            minibatch = {"image": torch.zeros(B, 3, 32, 32, dtype=torch.uint8), "label": ids % 10, "sample_id": ids}
            if step < WARM_UP:
                rehearsal.extend(minibatch)
                continue
            dist.barrier()
            sys.setprofile(recorder.profile)
            found.append(recorder.record(lambda minibatch=minibatch: rehearsal.extend(minibatch)))  # type: ignore[misc]
            sys.setprofile(None)
    threading.setprofile(None)
    return found


def medians(extends: list[dict[str, list[Call]]]) -> dict[str, dict[str, float]]:
    """What several extends come to, by thread."""
    counts = [{thread: hops(calls) for thread, calls in extend.items()} for extend in extends]
    return {
        thread: {name: statistics.median(count[thread][name] for count in counts) for name in counts[0][thread]}
        for thread in counts[0]
    }


def run_rank(rank: int, world_size: int, rendezvous: str, asynchronous: bool, show: bool, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    extends = steady_extends(rank, world_size, asynchronous)
    if show and rank == 0:
        for thread, calls in extends[-1].items():
            print(f"-- {thread}", *(f"{'  ' * depth}{file} {name}" for depth, file, name in calls), sep="\n")
    Path(f"{results}-{rank}").write_text(json.dumps(medians(extends)))
    dist.destroy_process_group()


def count(asynchronous: bool, show: bool) -> list[dict[str, dict[str, float]]]:
    """By rank and thread."""
    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(run_rank, (2, f"{scratch}/rendezvous", asynchronous, show, f"{scratch}/results"), nprocs=2)
        return [json.loads(Path(f"{scratch}/results-{rank}").read_text()) for rank in (0, 1)]


def main() -> None:
    from checkout import parse_in_checkout  # beside this file, which tests import from elsewhere

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    arguments = parse_in_checkout(parser)
    for asynchronous in (False, True):
        for rank, threads in enumerate(count(asynchronous, arguments.show)):
            for thread, figures in threads.items():
                told = ", ".join(f"{value:g} {name}" for name, value in figures.items())
                print(f"{'rounds on a worker' if asynchronous else 'rounds inline'}, rank {rank}, {thread}: {told}")


if __name__ == "__main__":
    main()
