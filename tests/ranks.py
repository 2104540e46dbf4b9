"""Run one function on N gloo ranks of this machine, fast, and say why when it hangs.

`forkserver` with torch preloaded starts a rank in 0.1 s where `spawn` takes 7. After the first failure the others get
a second to say why; on a timeout every rank prints its stacks before it is killed.
"""

from __future__ import annotations

import faulthandler
import multiprocessing as mp
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from warm_python import warm_python

FORKS = mp.get_context("forkserver")
SPAWNS = mp.get_context("spawn")  # for CUDA, which does not serve a process forked from one that has asked for devices
FORKS.set_forkserver_preload(["preload"])
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when the server imports it
# the server finds what it preloads by PYTHONPATH alone
_ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(_ROOT), str(_ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
)


@cache
def share_preload() -> None:
    """Have this worker's fork server forked from the process that has preloaded already, for all workers."""
    FORKS.set_executable(warm_python())


def run_ranks(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 30.0,
    gloo_timeout: float | None = None,
    context: Any = FORKS,
) -> list[Any]:
    """fn(rank, world_size, *args) on every rank, inside a gloo group; the results by rank.

    gloo_timeout: of the default group; by default longer than `timeout`, so that the hang report comes first.
    """
    results, failures = collect_ranks(
        fn, world_size, *args, timeout=timeout, gloo_timeout=gloo_timeout, context=context
    )
    if failures:
        raise AssertionError("\n".join(f"--- rank {r}\n{text}" for r, text in sorted(failures.items())))
    return [results[rank] for rank in range(world_size)]


def run_cases(
    fn: Callable[..., Any],
    world_size: int,
    cases: Mapping[str, Sequence[Any]],
    *,
    timeout: float = 30.0,
    gloo_timeout: float | None = None,
) -> dict[str, list[Any]]:
    """fn(rank, world_size, *case) for each case, one after the other in the same ranks; by case, the results by rank.

    Starting ranks costs more than most cases do. A case that fails or hangs is named in the report, and ends the rest.
    """
    per_rank = run_ranks(_each_case, world_size, fn, dict(cases), timeout=timeout, gloo_timeout=gloo_timeout)
    return {name: [results[name] for results in per_rank] for name in cases}


def _each_case(rank: int, world_size: int, fn: Callable[..., Any], cases: Mapping[str, Sequence[Any]]) -> dict:
    results = {}
    for name, case in cases.items():
        torch.manual_seed(rank)  # a case alone gives what it gives among others
        print(f"in case {name!r}:", file=_stacks, flush=True)
        try:
            results[name] = fn(rank, world_size, *case)
        except BaseException as error:
            raise AssertionError(f"case {name!r} failed on rank {rank}") from error
    return results


def collect_ranks(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 30.0,
    gloo_timeout: float | None = None,
    patience: float = 1.0,
    abandon: Collection[int] = (),
    context: Any = FORKS,
) -> tuple[dict[int, Any], dict[int, str]]:
    """As `run_ranks`, for tests in which ranks fail: results and tracebacks by rank.

    patience: seconds that the other ranks get after the first failure.
    abandon: ranks that are not waited for once all others have ended, such as stopped ones.
    """
    share_preload()
    with tempfile.TemporaryDirectory() as scratch:
        pipes, ranks = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank_main,
                args=(fn, rank, world_size, args, scratch, sender, gloo_timeout or 2 * timeout),
                daemon=True,
            )
            process.start()
            sender.close()
            pipes.append(receiver)
            ranks.append(process)
        try:
            return _collect(pipes, ranks, scratch, timeout, patience, abandon)
        finally:
            for process in ranks:
                if process.is_alive():
                    process.kill()
                process.join()


_stacks = sys.stderr  # in a rank, the file of what is reported if it hangs


def _rank_main(fn, rank, world_size, args, scratch, sender, gloo_timeout):
    global _stacks
    _stacks = open(os.path.join(scratch, f"rank{rank}.stacks"), "w")  # noqa: SIM115 - lives as long as the process
    faulthandler.register(signal.SIGUSR1, file=_stacks, all_threads=True)
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{scratch}/rendezvous",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=gloo_timeout),
        )
        result = fn(rank, world_size, *args)
        dist.destroy_process_group()
    except BaseException:
        sender.send(("failed", traceback.format_exc()))
    else:
        sender.send(("ok", result))


def _collect(pipes, ranks, scratch, timeout, patience, abandon):
    deadline = time.monotonic() + timeout
    results, failures, waiting = {}, {}, dict(enumerate(pipes))
    while waiting.keys() - set(abandon):
        ready = mp.connection.wait(list(waiting.values()), timeout=max(0.0, deadline - time.monotonic()))
        if not ready and failures:
            failures |= dict.fromkeys(waiting, "did not end")
            break
        if not ready:
            raise AssertionError(_hang_report(ranks, sorted(waiting), scratch, timeout))
        for rank in [r for r, pipe in waiting.items() if pipe in ready]:
            try:
                status, value = waiting.pop(rank).recv()
            except EOFError:
                ranks[rank].join(1)
                status, value = "failed", f"died with exit code {ranks[rank].exitcode}"
            if status == "failed":
                failures[rank] = value
                deadline = min(deadline, time.monotonic() + patience)
            else:
                results[rank] = value
    return results, failures


def _hang_report(ranks, missing, scratch, timeout):
    for rank in missing:
        os.kill(ranks[rank].pid, signal.SIGUSR1)
    time.sleep(0.5)
    stacks = "\n".join(f"--- rank {r}\n" + Path(scratch, f"rank{r}.stacks").read_text() for r in missing)
    return f"ranks {missing} of {len(ranks)} did not finish in {timeout:g} s:\n{stacks}"
