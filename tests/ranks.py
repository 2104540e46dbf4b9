"""Run one function on N gloo ranks of this machine, fast, and say why when it hangs."""

from __future__ import annotations

import faulthandler
import multiprocessing as mp
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = mp.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed"])


def run_ranks(fn: Callable[..., Any], world_size: int, *args: Any, timeout: float = 20.0) -> list[Any]:
    with tempfile.TemporaryDirectory() as scratch:
        pipes, ranks = [], []
        for rank in range(world_size):
            receiver, sender = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_rank_main, args=(fn, rank, world_size, args, scratch, sender, timeout), daemon=True
            )
            process.start()
            sender.close()
            pipes.append(receiver)
            ranks.append(process)
        try:
            return _collect(pipes, ranks, scratch, timeout)
        finally:
            for process in ranks:
                if process.is_alive():
                    process.kill()
                process.join()


def _rank_main(fn, rank, world_size, args, scratch, sender, timeout):
    stacks = open(os.path.join(scratch, f"rank{rank}.stacks"), "w")
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{scratch}/rendezvous",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=2 * timeout),  # the hang report must come first
        )
        result = fn(rank, world_size, *args)
        dist.destroy_process_group()
    except BaseException:
        sender.send(("failed", traceback.format_exc()))
    else:
        sender.send(("ok", result))


def _collect(pipes, ranks, scratch, timeout):
    deadline = time.monotonic() + timeout
    results, failures, waiting = {}, {}, dict(enumerate(pipes))
    while waiting:
        ready = mp.connection.wait(list(waiting.values()), timeout=deadline - time.monotonic())
        if not ready and failures:
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
                deadline = min(deadline, time.monotonic() + 1.0)  # let the other ranks say why, too
            else:
                results[rank] = value
    if failures:
        raise AssertionError("\n".join(f"--- rank {r}\n{text}" for r, text in sorted(failures.items())))
    return [results[rank] for rank in range(len(ranks))]


def _hang_report(ranks, missing, scratch, timeout):
    for rank in missing:
        os.kill(ranks[rank].pid, signal.SIGUSR1)
    time.sleep(0.5)
    stacks = "\n".join(f"--- rank {r}\n" + open(os.path.join(scratch, f"rank{r}.stacks")).read() for r in missing)
    return f"ranks {missing} of {len(ranks)} did not finish in {timeout:g} s:\n{stacks}"
