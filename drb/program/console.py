"""What the program prints: lines, and progress as a bar on a terminal or as a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import rich.console
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from drb.distributed.world import World
from drb.machine import usable_cores
from drb.training.reporting.monitor import Console

FIRST_LINE_S, LINE_EVERY_S = 5.0, 30.0  # where progress is printed as lines


class TerminalConsole:
    """Lines and a progress bar on a terminal. Implements `drb.training.reporting.monitor.Console`."""

    def __init__(self) -> None:
        self._console = rich.console.Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def begin(self, title: str, completed: int, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._progress.add_task(title, completed=completed, total=total, note="")
        self._progress.start()

    def show(self, completed: int, note: str) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=completed, note=note, refresh=True)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class PlainConsole:
    """Lines for a file or a pipe; a line of progress every half a minute, the first after a few seconds.

    Args:
        prefix: in front of every line, such as '[rank 1] '.
        shows_progress: whether there are lines of progress.
    """

    def __init__(self, prefix: str = "", *, shows_progress: bool = True) -> None:
        self._prefix = prefix
        self._shows_progress = shows_progress
        self._title, self._first, self._total = "", 0, 0
        self._started = self._next_line = 0.0

    def say(self, line: str) -> None:
        print(f"{self._prefix}{line}", flush=True)

    def begin(self, title: str, completed: int, total: int) -> None:
        self._title, self._first, self._total = title, completed, total
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_S

    def show(self, completed: int, note: str) -> None:
        now = time.monotonic()
        if not self._shows_progress or now < self._next_line or completed <= self._first:
            return
        self._next_line = now + LINE_EVERY_S
        left = (now - self._started) * (self._total - completed) / (completed - self._first)
        share = f"{completed} of {self._total} minibatches ({completed / self._total:.0%})"
        self.say(", ".join(filter(None, [f"{self._title}: {share}", note, f"about {_duration(left)} left"])))

    def end(self) -> None:
        pass


def open_console(world: World, *, of_all_ranks: bool) -> Console | None:
    """The console of this rank; None for ranks above 0 that are not to speak."""
    if world.is_main:
        return TerminalConsole() if sys.stdout.isatty() else PlainConsole()
    return PlainConsole(f"[rank {world.rank}] ", shows_progress=False) if of_all_ranks else None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def warn_of_threads(world: World, say: Callable[[str], None]) -> None:
    """Say so if the ranks of this node have more threads of PyTorch than it has cores, which is very slow."""
    ranks, threads, cores = world.local_world_size, torch.get_num_threads(), len(usable_cores())
    if threads > 1 and ranks > 1 and ranks * threads > cores:
        say(f"warning: {ranks} ranks x {threads} threads on {cores} cores of this node; set OMP_NUM_THREADS=1")
