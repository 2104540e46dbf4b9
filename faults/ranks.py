"""Starts the ranks of a run and watches how each of them ends.

Ranks are forked from this process, which has imported everything: that takes 0.1 s instead of 5. Nobody ends a rank
because another has failed, as a launcher would: each must do so by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.injection import inject
from faults.plan import Fault

_POLL_S = 0.02
_AFTER_CONTINUE_S = 30.0


@dataclass
class RankEnd:
    """code: the exit code, minus the signal's number if one ended it; None: it had to be killed."""

    rank: int
    code: int | None = None
    ended_at: float = 0.0  # seconds since the epoch
    out: str = ""
    err: str = ""
    was_continued: bool = False

    @property
    def errors(self) -> list[str]:
        return re.findall(r"^drb: (?:\[rank \d+\] )?error: .*$", self.err, re.MULTILINE)


@dataclass
class RunEnd:
    """How a run ended. since_fault_s: from the fault to the end of the last rank that had to end by itself."""

    ranks: list[RankEnd] = field(default_factory=list)
    struck: bool = False
    since_fault_s: float = 0.0

    @property
    def hung(self) -> list[int]:
        return [end.rank for end in self.ranks if end.code is None]


def run_ranks(
    arguments: Sequence[str],
    world_size: int,
    logs: Path,
    *,
    fault: Fault | None = None,
    limit_s: float = 90.0,
    environment: dict[str, str] | None = None,
) -> RunEnd:
    """One run of `drb train` on world_size ranks; a fault's own rank suffers it."""
    logs.mkdir(parents=True)
    struck, port = logs / "struck", _free_port()
    pids: dict[int, int] = {}
    for rank in range(world_size):
        place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
        variables = {**{key: str(value) for key, value in place.items()}, **(environment or {})}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        own_fault = fault if fault is not None and rank == fault.rank else None
        pids[rank] = _fork(arguments, variables, logs / f"{rank}", own_fault, struck)
    ends = _watch(pids, limit_s, stopped=fault.rank if fault is not None and fault.kind == "stop" else None)
    for rank, end in ends.items():
        end.out, end.err = Path(logs, f"{rank}.out").read_text(), Path(logs, f"{rank}.err").read_text()
    result = RunEnd([ends[rank] for rank in sorted(ends)], struck.exists())
    if struck.exists():
        result.since_fault_s = max(e.ended_at for e in result.ranks if not e.was_continued) - float(struck.read_text())
    return result


def _fork(arguments: Sequence[str], variables: dict[str, str], log: Path, fault: Fault | None, struck: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for suffix, descriptor in ((".out", 1), (".err", 2)):
            file = os.open(f"{log}{suffix}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            os.dup2(file, descriptor)
        os.environ.update(variables)
        if fault is not None:
            inject(fault, struck)
        from drb.train import main

        code = main(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(pids: dict[int, int], limit_s: float, stopped: int | None) -> dict[int, RankEnd]:
    """Wait for each rank; a stopped one is continued when all others have ended, and must then end, too."""
    running, ends = dict(pids), {rank: RankEnd(rank) for rank in pids}
    deadline = time.monotonic() + limit_s
    while running:
        for rank, pid in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ends[rank].code = os.waitstatus_to_exitcode(status)
                ends[rank].ended_at = time.time()
                del running[rank]
        if list(running) == [stopped] and not ends[stopped].was_continued:
            ends[stopped].was_continued = True
            os.kill(running[stopped], signal.SIGCONT)
            deadline = time.monotonic() + _AFTER_CONTINUE_S
        if running and time.monotonic() > deadline:
            for pid in running.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            for rank in running:
                ends[rank].ended_at = time.time()
            break
        time.sleep(_POLL_S)
    return ends


def _free_port() -> int:
    """Below those that the kernel gives to outgoing connections: nobody takes it before it is used."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
