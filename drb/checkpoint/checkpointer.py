"""Saves a run when it is due, stops it when it is told to, and finds what it goes on from.

A checkpoint is written by all ranks in parallel, each its own part and rank 0 what all have alike, into a directory
that gets its name only when every file is on the disk. Training waits meanwhile.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch.distributed as dist
from typing_extensions import Self

from drb.checkpoint.agreement import Agreement, StopSignals, Wish
from drb.checkpoint.finding import OWN, SHARED, Saved, State, find_saved
from drb.checkpoint.folder import CheckpointFolder, checkpoint_name
from drb.checkpoint.format import (
    CheckpointError,
    FileRecord,
    Manifest,
    rank_part,
    write_json,
    write_manifest,
    write_part,
)
from drb.checkpoint.room import Room
from drb.checkpoint.settings import CheckpointSettings
from drb.world import World

MARKER = "INTERRUPTED"


class Interrupted(SystemExit):
    """The run was told to stop, saved itself and can be resumed: exit code 75, "try again later" (EX_TEMPFAIL)."""

    def __init__(self, path: Path, signal_number: int) -> None:
        super().__init__(os.EX_TEMPFAIL)
        self.path = path
        self.signal_number = signal_number


class Saver(Protocol):
    """What a training loop calls. next_step: `visit` is not needed before it."""

    next_step: float

    def begin_task(self, step: int) -> None: ...

    def visit(self, step: int, state: Callable[[], State]) -> None: ...

    def visit_boundary(self, step: int, state: Callable[[], State], *, evaluated: bool) -> None: ...


class NoCheckpoints(Saver):
    """For runs that are not saved."""

    next_step = math.inf

    def begin_task(self, step: int) -> None:
        pass

    def visit(self, step: int, state: Callable[[], State]) -> None:
        pass

    def visit_boundary(self, step: int, state: Callable[[], State], *, evaluated: bool) -> None:
        pass


class Checkpointer(Saver):
    """One per rank; its methods are collective. A context manager: leaving it by `Interrupted` waits for rank 0."""

    def __init__(
        self,
        settings: CheckpointSettings,
        run_dir: Path,
        world: World,
        *,
        signals: StopSignals,
        timeout_s: float = 600.0,
        ask_every_s: float = 0.2,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            run_dir: the same directory for all ranks.
            signals: those that stop the run, already installed.
            timeout_s: of the exchange in which ranks agree to save.
            ask_every_s: how often they do, about.
            say: called on rank 0 with lines for the user.
        """
        self._settings = settings
        self._run_dir = run_dir
        self._world = world
        self._signals = signals
        self._say = say or (lambda line: None)
        self._folder = CheckpointFolder(run_dir / "checkpoints", settings.keep_last)
        self._facts: Mapping[str, Any] = {}
        self._flush: Callable[[], None] = lambda: None
        self._last_saved = ""
        self._next_periodic = self._period = settings.every_steps or math.inf
        self._next_save_at = self._time_of_next_save()
        self.next_step: float = math.inf
        self.seconds = 0.0  # that training has waited for checkpoints
        self._room = Room(world)
        self._agreement: Agreement | None = None
        if signals or settings.every_minutes is not None:
            several, timeout = world.world_size > 1, timedelta(seconds=timeout_s)
            group = dist.new_group(backend="gloo", timeout=timeout) if several else None
            self._agreement = Agreement(self._wish, group, every_s=ask_every_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Interrupted):
            self._room.share(
                None
            )  # a launcher ends all ranks once one has ended: rank 0 may still be talking to MLflow

    def begin_run(self, facts: Mapping[str, Any], flush: Callable[[], None]) -> None:
        """The run starts or goes on: an earlier marker is removed.

        Args:
            facts: saved besides the trainer's state, as JSON.
            flush: writes out what was logged, before a checkpoint counts: a run that goes on from it repeats nothing.
        """
        self._facts, self._flush = facts, flush
        if self._world.is_main:
            (self._run_dir / MARKER).unlink(missing_ok=True)

    # -- during training

    def begin_task(self, step: int) -> None:
        """Training starts after `step` steps."""
        self._next_periodic = (step // self._period + 1) * self._period if self._period < math.inf else math.inf
        if self._agreement is not None:
            self._agreement.restart(step)
        self._plan()

    def visit(self, step: int, state: Callable[[], State]) -> None:
        """After an optimisation step, at `next_step`: save if it is due.

        Raises:
            Interrupted: saved, because a rank was told to stop.
            CheckpointError: it could not be saved; alike on all ranks.
        """
        is_due = step >= self._next_periodic
        if is_due:
            self._next_periodic += self._period
        wish = Wish()
        if self._agreement is not None and step >= self._agreement.next_step:
            wish = self._agreement.visit(step)
        self._plan()
        if is_due or wish:
            self._save(step, state, wish.signal)

    def visit_boundary(self, step: int, state: Callable[[], State], *, evaluated: bool) -> None:
        """Before or after the evaluation of a task; as `visit`."""
        wish = self._agreement.now() if self._agreement is not None else Wish()
        if wish or (evaluated and self._settings.at_task_end):
            self._save(step, state, wish.signal, evaluated=evaluated)

    # -- going on

    def find(self) -> Saved | None:
        """What `resume` says to go on from, read and checked on every rank; None to start anew.

        Raises:
            CheckpointError: none can be used. ValueError: the newest is of another world size.
        """
        if self._world.is_main:
            self._folder.clean()
        return find_saved(self._settings.resume, self._folder, self._room, self._world, self._say)

    # -- saving

    def _save(self, step: int, state: Callable[[], State], signal_number: int, *, evaluated: bool = False) -> None:
        start = time.perf_counter()
        name = checkpoint_name(step, evaluated)
        path = self._folder.root / name
        if name != self._last_saved:
            self._write(name, step, state())
            self._last_saved = name
        self._next_save_at = self._time_of_next_save()
        self.seconds += time.perf_counter() - start
        if signal_number:
            if self._world.is_main:
                self._mark(path, step, signal_number)
            raise Interrupted(path, signal_number)

    def _write(self, name: str, step: int, state: State) -> None:
        """Every rank its own part, rank 0 the rest; then, on rank 0, the manifest and the name."""
        self._room.together(lambda: self._folder.begin(name) if self._world.is_main else None)
        files: dict[str, FileRecord] = {}
        for written in self._room.together(lambda: self._write_parts(self._folder.unfinished(name), state)):
            files |= written
        manifest = Manifest(step, self._world.world_size, files)
        self._room.together(lambda: self._publish(name, manifest) if self._world.is_main else None)

    def _write_parts(self, folder: Path, state: State) -> dict[str, FileRecord]:
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is not there on rank {self._world.rank}: checkpoints need a run directory that all ranks "
                "share (hydra.run.dir), or checkpoint.enabled=false"
            )
        files = write_part(folder, rank_part(self._world.rank), state[OWN])
        if self._world.is_main:
            for part in SHARED:
                content = {**self._facts, part: state[part]} if part == "trainer" else state[part]
                files |= write_part(folder, part, content)
        return files

    def _publish(self, name: str, manifest: Manifest) -> None:
        self._flush()
        write_manifest(self._folder.unfinished(name), manifest)
        self._folder.publish(name)

    def _mark(self, path: Path, step: int, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        content = {"step": step, "checkpoint": str(path.relative_to(self._run_dir)), "signal": name}
        write_json(self._run_dir / MARKER, content)
        self._say(f"interrupted by {name} after {step} steps, saved in {path}; the same command goes on from there")

    # -- when

    def _plan(self) -> None:
        asks = math.inf if self._agreement is None else self._agreement.next_step
        self.next_step = min(asks, self._next_periodic)

    def _wish(self) -> Wish:
        return Wish(self._signals.received, time.monotonic() >= self._next_save_at)

    def _time_of_next_save(self) -> float:
        minutes = self._settings.every_minutes
        return math.inf if minutes is None or not self._world.is_main else time.monotonic() + 60 * minutes
