"""Mixing two sources beside other libraries: speed, seconds to go on in mid-epoch, and what is lost or repeated then.

`new` and `base` are mixed one to one: an epoch has each new sample once and as many of the base, all different. It is
stopped half-way and gone on with. Counted is, over the epoch: new samples that never came, samples that came again,
and how far the new ones were from their half at worst. Every figure is of new processes, one for each rank; the speed
is the median of three epochs with the best number of loader processes. Needs mosaicml-streaming, litdata, and datasets
with torchdata; if they cannot be installed together, give one PEER after the other in environments of their own:
results of others are kept.

    python benchmarks/mix_peers.py [--quick] [PEER ...]
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import record
import torch.distributed as dist
from peers import PEERS, SHAPE, Job

NEW, BASE, BATCH = 4000, 16_000, 64  # samples, samples, samples of a step on all ranks
WARM_UP = 10  # steps
TIMEOUT_S = 60
FORK = multiprocessing.get_context("fork")


def prepare(peer: ModuleType, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count, first in (("new", NEW, 0), ("base", BASE, NEW)):
        images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        peer.write(folder / name, images, rng.integers(0, 10, count), np.arange(first, first + count))


def go_through(peer: ModuleType, folder: Path, job: Job, stop: int | None, state: Any) -> dict[str, Any]:
    """What one rank sees of an epoch, or of its first `stop` steps, and then the state."""
    if job.world_size > 1:
        dist.init_process_group("gloo")
    begin = time.perf_counter()
    mix = peer.Mix({name: folder / name for name in ("new", "base")}, {"new": 1, "base": 1}, job)
    if state is not None:
        mix.load(state)
    steps, times, saved = [], [], None
    for ids in mix.minibatches():
        times.append(time.perf_counter())
        steps.append(ids)
        if len(steps) == stop:
            saved = mix.state(stop)
            break
    if job.world_size > 1:
        dist.barrier()  # some libraries' ranks need one another to the end
    timed = len(times) - WARM_UP
    speed = timed * job.batch_size / (times[-1] - times[WARM_UP - 1]) if timed > 0 else 0.0
    return {"first_s": times[0] - begin, "steps": steps, "state": saved, "samples_per_s": speed}


def _in_process(out: Path, environment: dict[str, Any], call: Callable[[], Any]) -> None:
    """Call in this process, which was forked for it, and write what it returns or its error."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        result = call()
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    out.write_text(json.dumps(result))
    os._exit(0)  # workers that look ahead are not waited for


def run(
    peer: ModuleType, folder: Path, world_size: int, workers: int, stop: int | None = None, state: Any = None
) -> Any:
    """The results of all ranks, each in a new process.

    Raises:
        RuntimeError: a rank failed, or it took too long.
    """
    with tempfile.TemporaryDirectory() as scratch:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        outs, ranks = [Path(scratch) / str(rank) for rank in range(world_size)], []
        for rank, out in enumerate(outs):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            place |= {"NODE_RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
            job = Job(rank, world_size, BATCH // world_size, workers, 2 * NEW)
            call = partial(go_through, peer, folder, job, stop, state)
            ranks.append(FORK.Process(target=_in_process, args=(out, place, call)))
            ranks[-1].start()
        for process in ranks:
            process.join(TIMEOUT_S)
            process.kill()
        results = [json.loads(out.read_text()) if out.exists() else {"error": "took too long"} for out in outs]
    if errors := [result["error"] for result in results if "error" in result]:
        raise RuntimeError(errors[0])
    return results


def account(*runs: Any) -> dict[str, Any]:
    """What came in the epoch that these runs, one after the other, have gone through."""
    order = [
        id_
        for ranks in runs
        for step in range(max(len(rank["steps"]) for rank in ranks))
        for rank in ranks
        for id_ in (rank["steps"][step] if step < len(rank["steps"]) else ())
    ]
    came = Counter(order)
    is_new = np.array(order) < NEW
    at_step_ends = np.arange(BATCH, len(order) + 1, BATCH)
    off = np.cumsum(is_new)[at_step_ends - 1] - at_step_ends / 2
    return {
        "samples": len(order),
        "new_lost": sum(came[id_] == 0 for id_ in range(NEW)),
        "new_repeated": sum(came[id_] > 1 for id_ in range(NEW)),
        "base_repeated": sum(count > 1 for id_, count in came.items() if id_ >= NEW),
        "off_share": float(abs(off).max()),
    }


def resumed(peer: ModuleType, folder: Path, before: int, after: int, workers: int) -> dict[str, Any]:
    """Stopped half-way on `before` ranks and gone on with on `after`."""
    first = run(peer, folder, before, workers, stop=NEW // BATCH)
    try:
        second = run(peer, folder, after, workers, state=first[0]["state"])
    except RuntimeError as error:
        return {"fails": str(error).partition("\n")[0][:160]}
    return {**account(first, second), "first_minibatch_s": max(rank["first_s"] for rank in second)}


def measure(name: str, folder: Path, quick: bool) -> dict[str, Any]:
    peer = importlib.import_module(f"peers.{name}")
    writer = FORK.Process(target=prepare, args=(peer, folder))
    writer.start()
    writer.join()
    found: dict[str, Any] = {"version": peer.VERSION}
    for world_size in (1, 2):
        tried: dict[int, Any] = {}
        speeds: dict[int, float] = {}
        for workers in (0,) if quick else (0, 2 // world_size):
            runs = [run(peer, folder, world_size, workers) for _ in range(1 if quick else 3)]
            tried[workers] = runs[0]
            speeds[workers] = statistics.median(sum(rank["samples_per_s"] for rank in ranks) for ranks in runs)
        best = max(speeds, key=lambda workers: speeds[workers])
        found[f"W={world_size}"] = {
            "samples_per_s": speeds[best],
            "workers": best,
            "by_workers": speeds,
            "whole epoch": account(tried[best]),
            "gone on": resumed(peer, folder, world_size, world_size, best),
        }
    found["W=2, gone on at W=1"] = resumed(peer, folder, 2, 1, found["W=1"]["workers"])
    return found


def _kept(quick: bool) -> dict[str, Any]:
    """The figures that there are of other peers."""
    file = record.RESULTS / ("quick" if quick else "") / "mix_peers.json"
    return dict(json.loads(file.read_text())["figures"]) if file.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(PEERS))
    options = parser.parse_args()
    figures = {}
    for peer in options.peers or PEERS:
        with tempfile.TemporaryDirectory() as folder:
            figures[peer] = measure(peer, Path(folder), options.quick)
    record.save("mix_peers", {**_kept(options.quick), **figures}, adds=bool(options.peers))


if __name__ == "__main__":
    main()
