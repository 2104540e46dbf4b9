"""Claims: a prefilled folder of 200,000 records is opened in under 2 seconds without a copy per rank, and a step that
draws from it costs at most 5 % more than one that draws from a buffer in memory, while the page cache has the file.

- open: a process that imports drb already opens the folder and draws; seconds until its first exemplars, and what its
  memory grows by that no other process shares (USS), then and after 1,000 draws; two processes at once.
- step: a training step with 64 new samples and 64 exemplars, in turns in one process: two buffers on the heap (A/A) and
  the folder. Ratios of medians of blocks of 100 steps.
- cold: the file is dropped from the page cache before the first draw; the first 100 steps.
- small memory: a process in a control group (made as root) that leaves it a third of the file's size beside what Python
  and PyTorch take; the limit counts the page cache. A heap buffer of that size is refused there.

    python benchmarks/prefill.py [--quick] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import record
import torch
from interleaved import medians_us, upper_bound
from torch import nn

from drb import Rehearsal
from drb.data.cache.files import image_file
from drb.data.cache.parallel import build_together
from drb.data.datasets import Dataset, TensorSource
from drb.distributed.world import World

SHAPE, BATCH, EXEMPLARS = (3, 32, 32), 64, 64
FILLED = 5000  # rows at once
FIRST_NEW = 10**9  # ids of new samples
LIMIT_S, MOST_RATIO = 2.0, 1.05
PROCESS_BYTES = 350 << 20  # of Python and PyTorch


def fill(folder: Path, count: int) -> None:
    images = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)
    ids = torch.arange(count)
    source = TensorSource({"image": images, "label": ids % 10, "sample_id": ids})
    dataset = Dataset(source, source.subset(np.arange(1)), SHAPE, 10, (0.5,) * 3, (0.25,) * 3)
    build_together(folder, dataset, {"noise": count}, World(), 600.0, lambda line: None)


def minibatch(first: int, rows: int = BATCH) -> dict[str, torch.Tensor]:
    ids = torch.arange(first, first + rows)
    images = (ids.view(-1, 1, 1, 1) % 251).to(torch.uint8).expand(-1, *SHAPE).contiguous()
    return {"image": images, "label": ids % 10, "sample_id": ids}


class Training:
    """One step: forward, backward and an update of a network of one hidden layer."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal, self._step = rehearsal, 0
        self._network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10))
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=0.001)

    def __call__(self) -> None:
        batch = self.rehearsal.extend(minibatch(FIRST_NEW + self._step * BATCH))
        self._step += 1
        loss = nn.functional.cross_entropy(self._network(batch["image"] / 255), batch["label"])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def open_prefilled(folder: Path) -> Rehearsal:
    return Rehearsal(capacity=1000, exemplars=EXEMPLARS, seed=0, prefilled=str(folder), verbose=False)


def heap(count: int) -> Rehearsal:
    rehearsal = Rehearsal(capacity=count, exemplars=EXEMPLARS, seed=0, verbose=False)
    for first in range(0, count, FILLED):
        rehearsal.extend(minibatch(first, FILLED))
    return rehearsal


def own_bytes() -> int:
    """Memory of this process that is no file's: what the page cache cannot share or give back."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def opened(folder: Path, steps: int) -> dict[str, float]:
    """In a process of its own: see `open` above."""
    process = psutil.Process()
    with Rehearsal(capacity=1000, exemplars=EXEMPLARS, seed=0, verbose=False) as rehearsal:
        for step in range(4):  # what any rehearsal takes, and imports
            rehearsal.extend(minibatch(FIRST_NEW + step * BATCH))
    own_before, before, start = own_bytes(), process.memory_full_info().uss, time.perf_counter()
    with open_prefilled(folder) as rehearsal:
        rehearsal.extend(minibatch(FIRST_NEW))
        seconds = time.perf_counter() - start
        uss = process.memory_full_info().uss - before
        for step in range(1, steps):
            rehearsal.extend(minibatch(FIRST_NEW + step * BATCH))
        print("drawn", flush=True)
        sys.stdin.readline()  # what processes share is known while all are there
        return {
            "seconds": seconds,
            "uss_bytes": uss,
            "uss_bytes_after": process.memory_full_info().uss - before,
            "own_bytes_after": own_bytes() - own_before,
            "rss_bytes_after": process.memory_info().rss,
        }


def timed(folder: Path, steps: int) -> dict[str, float]:
    """In a process of its own: the median and the largest step, and how long rounds took to read their rows."""
    with open_prefilled(folder) as rehearsal:
        train, times = Training(rehearsal), []
        for _ in range(steps):
            start = time.perf_counter()
            train()
            times.append(time.perf_counter() - start)
        stats = rehearsal.stats()
    return {
        "step_ms": statistics.median(times) * 1e3,
        "largest_step_ms": max(times[2:]) * 1e3,
        "fetch_ms_per_round": stats["fetch_seconds"] / stats["rounds"] * 1e3,
        "waited_ms_per_step": stats["wait_seconds"] / steps * 1e3,
        "rss_bytes": psutil.Process().memory_info().rss,
    }


def refused(count: int) -> str:
    """In a process of its own: what a buffer on the heap says."""
    try:
        heap(count).close()
    except (ValueError, MemoryError) as error:
        return str(error) or "MemoryError"
    return "it fits"


def child(*arguments: object, group: Path | None = None, of: str = __file__) -> Any:
    """Run a part of a benchmark in a process of its own, and return what it measured, or why it could not."""

    def confine() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, of, "--part", *map(str, arguments)]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, preexec_fn=confine)
    if done.returncode == -signal.SIGKILL and group is not None:
        return {"failed": "the kernel killed it: the group's limit is too small for Python and PyTorch"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def _judged(figures: dict[str, Any]) -> dict[str, Any]:
    return figures | {"holds": figures["seconds"] < LIMIT_S}


def at_once(folder: Path, steps: int, processes: int) -> list[dict[str, float]]:
    command = [sys.executable, __file__, "--part", "opened", str(folder), str(steps)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    time.sleep(1)
    for each in started:  # measure while all are there, and leave when all have measured
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return [json.loads(each.communicate()[0].splitlines()[-1]) for each in started]


def drop_from_page_cache(folder: Path) -> None:
    with image_file(folder, "train").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def steps_in_turns(folder: Path, count: int, blocks: int) -> dict[str, Any]:
    ratios: dict[str, list[float]] = {"heap again": [], "prefilled": []}
    with heap(count) as first, heap(count) as second, open_prefilled(folder) as mapped:
        actions = {"heap": Training(first), "heap again": Training(second), "prefilled": Training(mapped)}
        medians_us(actions, 50)
        for _ in range(blocks):
            found = medians_us(actions, 100)
            for name, values in ratios.items():
                values.append(found[name] / found["heap"])
        fetch = {
            name: each.rehearsal.stats()["fetch_seconds"] / each.rehearsal.stats()["rounds"] * 1e6
            for name, each in actions.items()
        }
    ratio, bound = statistics.median(ratios["prefilled"]), upper_bound(ratios["prefilled"])
    return {
        "heap_step_us": found["heap"],
        "ratio": ratio,
        "ratio_upper_bound": bound,
        "ratio_of_heap_to_heap": statistics.median(ratios["heap again"]),
        "fetch_us_per_round": fetch,
        "holds": ratio <= MOST_RATIO,
    }


def control_group(limit: int) -> Path | None:
    """A new control group with a limit of memory; None if this process may make none."""
    for parent, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = parent / f"drb-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
            return group
        except OSError:
            if group.exists():
                group.rmdir()
    return None


def in_small_memory(folder: Path, count: int, steps: int) -> dict[str, Any]:
    size = image_file(folder, "train").stat().st_size
    limit = size // 3 + PROCESS_BYTES
    figures: dict[str, Any] = {"file_bytes": size, "limit_bytes": limit, "free": child("timed", folder, steps)}
    if size < PROCESS_BYTES:
        reason = (
            f"not measured: a file of {size >> 20} MiB is smaller than what Python itself takes; without --quick it is"
        )
        return figures | {"control group": reason}
    if (group := control_group(limit)) is None:
        return figures | {"control group": "none may be made here"}
    try:
        drop_from_page_cache(folder)
        figures["control group"] = child("timed", folder, steps, group=group)
        figures["control group, heap"] = child("refused", count, group=group)
    finally:
        group.rmdir()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; by default in the temporary folder")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part:
        part, first, *rest = options.part
        done = refused(int(first)) if part == "refused" else globals()[part](Path(first), int(rest[0]))
        print(json.dumps(done))
        return
    count, steps = (5_000, 100) if options.quick else (200_000, 500)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch) / "base"
        start = time.perf_counter()
        fill(folder, count)
        figures: dict[str, Any] = {"records": count, "fill_seconds": time.perf_counter() - start}
        parts = {
            "open": lambda: _judged(child("opened", folder, steps)),
            "open, two processes at once": lambda: at_once(folder, steps, 2),
            "step": lambda: steps_in_turns(folder, count, 3 if options.quick else 7),
            "cold": lambda: (drop_from_page_cache(folder), child("timed", folder, 100))[1],
            "small memory": lambda: in_small_memory(folder, count, steps),
        }
        for name, measure in parts.items():
            figures[name] = measure()
            print(name, figures[name], file=sys.stderr, flush=True)
    record.save("prefill", figures)


if __name__ == "__main__":
    main()
