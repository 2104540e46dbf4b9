"""Lines and a progress bar on a terminal, with rich."""

from __future__ import annotations

from collections.abc import Callable

import rich.console
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from drb.distributed.world import World
from drb.machine import usable_cores


class TerminalConsole:
    """Implements `drb.training.reporting.monitor.Console`. Without a terminal it prints the lines and no bar."""

    def __init__(self) -> None:
        self._console = rich.console.Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def open_bar(self, title: str, total: int) -> None:
        if not self._console.is_terminal:
            return
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
        self._progress.add_task(title, total=total, note="")
        self._progress.start()

    def draw_bar(self, completed: int, note: str) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=completed, note=note, refresh=True)

    def close_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class RankConsole:
    """For ranks above 0, where all are to speak: lines with the rank's number in front, and no bar."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def say(self, line: str) -> None:
        print(f"[rank {self._rank}] {line}", flush=True)

    def open_bar(self, title: str, total: int) -> None:
        pass

    def draw_bar(self, completed: int, note: str) -> None:
        pass

    def close_bar(self) -> None:
        pass


def warn_of_threads(world: World, say: Callable[[str], None]) -> None:
    """Say so if the ranks of this node have more threads of PyTorch than it has cores, which is very slow."""
    ranks, threads, cores = world.local_world_size, torch.get_num_threads(), len(usable_cores())
    if threads > 1 and ranks > 1 and ranks * threads > cores:
        say(f"warning: {ranks} ranks x {threads} threads on {cores} cores of this node; set OMP_NUM_THREADS=1")
