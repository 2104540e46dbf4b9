"""What the program prints: lines, and how training stands as a live view on a terminal or as a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch

from drb.distributed.world import World
from drb.machine import usable_cores
from drb.program.figures import duration, figures
from drb.training.reporting.live import Live
from drb.training.reporting.monitor import Console

FIRST_LINE_S, LINE_EVERY_S = 5.0, 30.0  # where progress is printed as lines


class PlainConsole:
    """Lines for a file or a pipe; a line of progress every half a minute, the first after a few seconds.

    Args:
        prefix: in front of every line, such as '[rank 1] '.
        shows_progress: whether there are lines of progress.
    """

    def __init__(self, prefix: str = "", *, shows_progress: bool = True) -> None:
        self._prefix = prefix
        self._shows_progress = shows_progress
        self._next_line = 0.0

    def say(self, line: str) -> None:
        print(f"{self._prefix}{line}", flush=True)

    def begin(self) -> None:
        self._next_line = time.monotonic() + FIRST_LINE_S

    def show(self, look: Callable[[], Live]) -> None:
        now = time.monotonic()
        if self._shows_progress and now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            self.say(as_line(look()))

    def end(self) -> None:
        pass


def as_line(live: Live) -> str:
    """How training stands in one line, for example 'task 1 (classes 0,1): step 40, epoch 1 of 5, 40 of 235 …'."""
    parts = [
        f"step {live.step}",
        f"epoch {live.epoch} of {live.epochs}",
        f"{live.completed} of {live.total} minibatches ({live.completed / live.total:.0%})",
        *figures(live),
        *([] if live.seconds_left is None else [f"about {duration(live.seconds_left)} left"]),
    ]
    return f"{live.task}: {', '.join(parts)}"


def open_console(world: World, *, of_all_ranks: bool) -> Console | None:
    """The console of this rank; None for ranks above 0 that are not to speak.

    On a terminal it is the live view, which needs the package rich (it comes with `drb-train[train]`), and lines where
    that is missing.
    """
    if world.is_main and sys.stdout.isatty() and find_spec("rich") is not None:
        from drb.program.terminal import TerminalConsole

        return TerminalConsole()
    if world.is_main:
        return PlainConsole()
    return PlainConsole(f"[rank {world.rank}] ", shows_progress=False) if of_all_ranks else None


def warn_of_threads(world: World, say: Callable[[str], None]) -> None:
    """Say so if the ranks of this node have more threads of PyTorch than it has cores, which is very slow."""
    ranks, threads, cores = world.local_world_size, torch.get_num_threads(), len(usable_cores())
    if threads > 1 and ranks > 1 and ranks * threads > cores:
        say(f"warning: {ranks} ranks x {threads} threads on {cores} cores of this node; set OMP_NUM_THREADS=1")
